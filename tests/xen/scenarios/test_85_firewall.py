"""Other programs change the firewall, or none has loaded one yet: the block holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rig import package, shell
from rig.guest import Guest
from rig.pace import scaled, until
from rig.park import Pair

_EVERYWHERE = ("10.77.0.1", "10.77.0.2", "10.77.0.12", "fd77::1", "fd77::2")
# [enforce] interval: seconds between two checks of the blocks.
_CHECK = 10.0
_CHAINS = ("INPUT", "FORWARD", "OUTPUT")
# Rules as iptables-save prints them.
_NO_RULES = "'*filter' ':INPUT ACCEPT' ':FORWARD ACCEPT' ':OUTPUT ACCEPT' COMMIT"


@pytest.fixture(scope="module", autouse=True)
def blocked(pair: Pair) -> Iterator[None]:
    """web1, with an IPv4 and an IPv6 address, is over its allowance."""
    package.send_over("web1")
    yield
    package.release("web1")


def _loaded() -> set[str]:
    return {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}


def test_the_unit_blocks_when_no_firewall_has_loaded_its_modules_yet(web: Guest) -> None:
    package.stop_daemon()
    for command in ("iptables-legacy", "ip6tables-legacy"):
        shell.run(command, "-X")
    package.unseal()
    shell.run("rmmod", "iptable_filter", "ip6table_filter")
    assert not {"iptable_filter", "ip6table_filter"} & _loaded()
    assert web.pings("10.77.0.2", "fd77::2")
    package.start_daemon()
    assert web.silent(*_EVERYWHERE)


def test_the_block_holds_after_a_reload_of_nftables(web: Guest) -> None:
    shell.run("systemctl", "start", "nftables")
    shell.run("systemctl", "reload", "nftables")
    assert until(lambda: web.silent(*_EVERYWHERE), _CHECK + scaled(1))


def test_the_block_is_back_after_iptables_restore_removed_it(web: Guest) -> None:
    with package.daemon_asleep():
        for command in ("iptables-legacy-restore", "ip6tables-legacy-restore"):
            shell.run("sh", "-c", f"printf '%s\\n' {_NO_RULES} | {command}")
        package.unseal()
        assert web.pings("10.77.0.2", "fd77::2")
    assert until(lambda: web.silent(*_EVERYWHERE), _CHECK + scaled(1))


def test_the_block_is_back_after_an_admin_inserts_a_rule_that_accepts_everything(web: Guest) -> None:
    with package.daemon_asleep():
        for chain in _CHAINS:
            shell.run("iptables-legacy", "-I", chain, "-j", "ACCEPT")
        package.unseal()
        assert web.pings("10.77.0.1", "10.77.0.2")
    assert until(lambda: web.silent("10.77.0.1", "10.77.0.2"), _CHECK + scaled(1))
    for chain in _CHAINS:
        shell.run("iptables-legacy", "-D", chain, "-j", "ACCEPT")

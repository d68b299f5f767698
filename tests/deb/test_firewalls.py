"""Debian's firewalls beside the package: whatever is done with them, blocked VMs stay blocked, and firewalls work."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deb import firewall, package
from tests.deb.firewall import FIREWALLD, NETFILTER_PERSISTENT, UFW, Firewall
from tests.deb.machine import Machine
from tests.deb.throughout import repeating
from tests.support.ears import Ear
from tests.support.frames import BROADCAST, frame
from tests.support.guest import Guest
from tests.support.pace import until

WEB, SHOP = ("10.50.0.11", "fd50::11"), ("10.50.0.12", "fd50::12")
VARIANTS = ("nft", "legacy")
SAVED = (Path("/etc/iptables/rules.v4"), Path("/etc/iptables/rules.v6"))
INTERVAL = 1  # seconds between two looks at the null routes
LENIENCE = 4  # seconds more on a busy machine
# With an exception the links of blocked VMs stay up: only their seals stop frames that no IP firewall sees.
CONFIG = f'[enforce]\ninterval = {INTERVAL}\nallow = ["203.0.113.1"]\n'
KIND, MARK = 0x88B5, b"<mark of a blocked guest>"

Alone = dict[tuple[str, str], list[str]]
"""A firewall's own rules after each of its acts, by the iptables that it uses and the act."""

# pytest sorts tests by these parameters: so each firewall is installed once.
with_each = pytest.mark.parametrize(
    "beside", [NETFILTER_PERSISTENT, UFW, FIREWALLD], indirect=True, ids=lambda one: one.name
)
with_netfilter_persistent = pytest.mark.parametrize(
    "beside", [NETFILTER_PERSISTENT], indirect=True, ids=lambda one: one.name
)


@pytest.fixture(scope="module")
def beside(request: pytest.FixtureRequest) -> Iterator[Firewall]:
    """A firewall's package, installed and stopped."""
    chosen: Firewall = request.param
    chosen.install()
    yield chosen
    chosen.purge()
    firewall.clear()


@pytest.fixture(scope="module")
def alone(beside: Firewall) -> Alone:
    """The firewall's rules on a machine that has never had xenbw."""
    rules = {}
    for variant in VARIANTS:
        firewall.clear()
        firewall.use(variant)
        for act in beside.acts:
            beside.do(act)
            rules[variant, act] = firewall.theirs()
    firewall.clear()
    return rules


@pytest.fixture(scope="module")
def host(alone: Alone) -> Iterator[Machine]:
    """A dom0 with that firewall and with xenbw."""
    package.apt("install", package.built())
    own = Path("/etc/xenbw/xenbw.toml.d/own.toml")
    own.parent.mkdir()
    own.write_text(CONFIG)
    package.run("systemctl", "reload", package.UNIT)
    with Machine() as dom0:
        yield dom0
    package.run("dpkg", "--purge", "xenbw")


@pytest.fixture(scope="module")
def web(host: Machine) -> Guest:
    """A running guest that is over its allowance, null-routed and sealed."""
    guest = host.start("web1", WEB)
    host.add("web1", "1MB")
    with Ear(host.outside) as ear:
        speak(guest)
        assert until(lambda: any(MARK in heard.frame for heard in ear.heard()))
    host.push_over(guest, WEB)
    return guest


@pytest.fixture
def variant(request: pytest.FixtureRequest, host: Machine, web: Guest) -> Iterator[str]:
    """The iptables that the firewall uses; the firewall is stopped, and all blocks of xenbw hold."""
    kind: str = request.param
    firewall.use(kind)
    firewall.clear()
    assert until(lambda: stand(host))
    yield kind
    firewall.use("nft")


def speak(guest: Guest) -> None:
    with guest.namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind(("eth0", 0))
        sender.send(frame(BROADCAST, guest.cards[0].mac, MARK, KIND))


@contextmanager
def unheard(host: Machine, guest: Guest) -> Iterator[None]:
    """The guest sends all the time, and no frame of it may arrive outside."""

    def work() -> None:
        speak(guest)
        time.sleep(0.005)

    with Ear(host.outside) as ear:
        with repeating(work):
            yield
        assert [heard for heard in ear.heard() if MARK in heard.frame] == []


def stand(host: Machine) -> bool:
    """Whether the null routes are whole and come before all other rules."""
    return host.null_routed(*WEB) and firewall.jumps_are_first()


@with_each
@pytest.mark.parametrize("variant", VARIANTS, indirect=True)
def test_after_each_act_of_a_firewall_all_blocks_hold_in_time_and_its_rules_are_as_without_xenbw(
    beside: Firewall, alone: Alone, host: Machine, web: Guest, variant: str
) -> None:
    for act in beside.acts:
        with unheard(host, web):
            beside.do(act)
            assert until(lambda: stand(host), INTERVAL + LENIENCE), act
        assert firewall.theirs() == alone[variant, act], act


@with_each
@pytest.mark.parametrize("variant", ["nft"], indirect=True)
def test_systemctl_reload_of_a_firewall_reloads_the_daemon(beside: Firewall, host: Machine, variant: str) -> None:
    def reloads() -> int:
        return package.journal().count("configuration read again")

    assert package.unit("CanReload", name=beside.unit) == ["yes" if beside.reloads else "no"]
    beside.do(beside.acts[0])
    due = reloads() + (1 if beside.reloads else 0)
    package.run("systemctl", "reload", beside.unit, check=beside.reloads)
    assert until(lambda: reloads() == due)
    beside.do(beside.acts[-1])


def saved_rules(host: Machine) -> list[str]:
    """doctor's findings about saved firewall files."""
    said = host.run(["xenbw", "doctor"], timeout=120).stdout.splitlines()
    return [line for line in said if " saved rules: " in line]


@with_netfilter_persistent
@pytest.mark.parametrize("variant", ["nft"], indirect=True)
def test_netfilter_persistent_saves_no_rule_of_ours_with_debians_default_iptables(
    beside: Firewall, host: Machine, variant: str
) -> None:
    beside.do("netfilter-persistent save")
    assert not any("XENBW" in path.read_text() for path in SAVED)
    assert saved_rules(host) == ["PASS  saved rules: no saved firewall names xenbw's chains"]


@with_netfilter_persistent
@pytest.mark.parametrize("variant", ["legacy"], indirect=True)
def test_doctor_names_each_file_in_which_netfilter_persistent_has_saved_our_chains(
    beside: Firewall, host: Machine, variant: str
) -> None:
    beside.do("netfilter-persistent save")
    why = "if restored, it blocks the VMs that were blocked when it was saved, until xenbwd corrects that"
    assert saved_rules(host) == [
        f"WARN  saved rules: {path} names the chain of xenbw's null routes: {why}" for path in SAVED
    ]
    # Do what the message says. The saved file stays.
    for path in SAVED:
        path.write_text("".join(line for line in path.read_text().splitlines(True) if "XENBW" not in line))
    beside.do("netfilter-persistent reload")
    assert until(lambda: stand(host), INTERVAL + LENIENCE)


@with_netfilter_persistent
@pytest.mark.parametrize("variant", ["legacy"], indirect=True)
def test_a_saved_file_does_not_block_a_vm_again_that_was_lifted_since(
    beside: Firewall, host: Machine, variant: str
) -> None:
    shop = host.start("shop", SHOP)
    host.xenbw("block", "shop")
    assert until(lambda: host.null_routed(*SHOP))
    beside.do("netfilter-persistent save")
    assert all(ip in path.read_text() for ip, path in zip(SHOP, SAVED, strict=True))
    host.xenbw("lift", "shop")
    assert shop.reaches("10.50.0.2")
    beside.do("netfilter-persistent reload")
    assert until(lambda: not any(ip in rule for ip in SHOP for rule in package.rules()), INTERVAL + LENIENCE)
    assert shop.reaches("10.50.0.2")
    assert shop.reaches("fd50::2")
    assert stand(host)

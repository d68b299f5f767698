"""The daemon as systemd runs it: in its sandbox, with the system's own iptables."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deb import package
from tests.deb.machine import Machine
from tests.deb.throughout import throughout
from tests.support.guest import Guest
from tests.support.pace import until

WEB = ("10.50.0.11", "fd50::11")


@pytest.fixture
def web(installed: None, machine: Machine) -> Guest:
    """A running guest that has used nothing of its 1 MB."""
    guest = machine.start("web1", WEB)
    machine.add("web1", "1MB")
    return guest


@contextmanager
def setting(lines: str) -> Iterator[None]:
    """A drop-in for the unit, valid until the machine shuts down."""
    folder = Path(f"/run/systemd/system/{package.UNIT}.d")
    folder.mkdir(parents=True)
    (folder / "test.conf").write_text(f"[Service]\n{lines}\n")
    package.run("systemctl", "daemon-reload")
    yield
    (folder / "test.conf").unlink()
    folder.rmdir()
    package.run("systemctl", "daemon-reload")


def test_a_guest_that_goes_over_is_null_routed_in_ipv4_and_ipv6(machine: Machine, web: Guest) -> None:
    assert web.reaches("10.50.0.2")
    assert web.reaches("fd50::2")
    machine.push_over(web, WEB)
    assert not web.ping("10.50.0.2")
    assert not web.ping("fd50::2")


def test_every_byte_that_the_guests_own_card_counted_is_metered(machine: Machine, web: Guest) -> None:
    machine.add("web1", "1GB")
    web.send(3_000_000)
    web.receive(5_000_000, timeout=2)
    assert until(lambda: machine.metered(web) == web.counters(), 15), (machine.metered(web), web.counters())


def test_a_guest_that_is_over_restarts_null_routed_with_the_daemon_stopped(machine: Machine, web: Guest) -> None:
    machine.push_over(web, WEB)
    package.run("systemctl", "stop", package.UNIT)
    package.run("iptables-legacy", "-F", "XENBW")
    web.reboot()
    assert machine.null_routed(WEB[0])
    assert web.send(100_000) == 0


def test_a_killed_daemon_is_restarted_and_the_null_routes_hold_all_the_time(machine: Machine, web: Guest) -> None:
    machine.push_over(web, WEB)
    first = package.main_pid()
    with throughout(lambda: machine.null_routed(*WEB)):
        os.kill(first, signal.SIGKILL)
        assert until(lambda: package.running() and package.main_pid() not in (0, first), 30)
    assert package.unit("NRestarts") == ["1"]


def test_the_watchdog_ends_a_hung_daemon_and_starts_it_again(machine: Machine, web: Guest) -> None:
    assert package.unit("WatchdogUSec") == ["1min"]
    machine.push_over(web, WEB)
    # The daemon pings systemd every 10 seconds.
    with setting("WatchdogSec=11"):
        package.run("systemctl", "restart", package.UNIT)
        first = package.main_pid()
        with throughout(lambda: machine.null_routed(*WEB)):
            os.kill(first, signal.SIGSTOP)
            assert until(lambda: package.running() and package.main_pid() not in (0, first), 60)
        # systemd lets the stopped process go on, and its SIGABRT makes Python write down where it hung.
        assert until(lambda: "and its watchdog restarted it" in package.journal(), 30), package.journal()
        assert "xenbwd hung, in " in package.journal()


def test_a_reload_of_the_hosts_firewall_reloads_the_daemon(machine: Machine, web: Guest) -> None:
    machine.push_over(web, WEB)
    package.run("systemctl", "start", "nftables.service")
    for command in ("iptables-legacy", "ip6tables-legacy"):
        package.run(command, "-F")
    # nftables.conf begins with "flush ruleset".
    package.run("systemctl", "reload", "nftables.service")
    # Sooner than the next check by [enforce] interval.
    assert until(lambda: machine.null_routed(*WEB), 5)
    assert not web.ping("10.50.0.2")
    assert not web.ping("fd50::2")
    package.run("systemctl", "stop", "nftables.service")


def test_systemctl_reload_reads_a_new_configuration_without_a_restart(machine: Machine, installed: None) -> None:
    machine.start("shop")
    first = package.main_pid()
    own = Path("/etc/xenbw/xenbw.toml.d/own.toml")
    own.parent.mkdir()
    own.write_text('[default]\nlimit = "7TB"\n')
    package.run("systemctl", "reload", package.UNIT)
    assert until(lambda: machine.show("shop")["limit_bytes"] == 7 * 10**12)
    assert package.main_pid() == first


def test_a_mistake_in_the_configuration_is_reported_at_reload_and_changes_nothing(installed: None) -> None:
    first = package.main_pid()
    own = Path("/etc/xenbw/xenbw.toml.d/own.toml")
    own.parent.mkdir()
    own.write_text('[default]\nlimit = "7 bananas"\n')
    package.run("systemctl", "reload", package.UNIT)
    assert until(lambda: "configuration not taken over" in package.journal())
    assert "own.toml" in package.journal()
    assert (package.running(), package.main_pid()) == (True, first)

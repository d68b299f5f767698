"""The log of a running daemon: a line for each event."""

from __future__ import annotations

import re
import signal

import pytest

from tests.support.host import Host
from tests.support.pace import until
from xenbw import __version__

pytestmark = pytest.mark.kernel

LIMIT = 1_000_000


@pytest.fixture
def quiet(host: Host) -> Host:
    """A running daemon that checks the firewall only once in five minutes."""
    host.configure("[enforce]\ninterval = 300\n")
    host.start_daemon()
    return host


def lines(host: Host) -> list[str]:
    """The log, without what a busy machine gives cause for: a program that does not answer in time."""
    told = host.log.read_text().splitlines()
    return [line for line in told if not line.endswith("; the addresses known before stay protected")]


def sighup(host: Host) -> None:
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGHUP)
    host.notified("READY=1")


def test_the_daemons_start_and_end_are_a_line_each(running: Host) -> None:
    assert running.stop_daemon() == 0
    start, end = lines(running)
    assert start.startswith(f"xenbwd {__version__} runs: 0 vifs of 0 VMs metered (nft), 0 over")
    assert end.startswith("xenbwd stops, its blocks stay: ")


def test_going_over_and_the_release_are_one_line_each(running: Host) -> None:
    guest = running.start("web1", ("10.50.0.11", "fd50::11"))
    running.xenbw("addvm", "web1", "--limit", "1MB")
    before = lines(running)
    guest.send(LIMIT)
    assert until(lambda: running.blocked("10.50.0.11") and running.blocked("fd50::11"))
    running.xenbw("addvm", "web1", "--limit", "1TB")
    assert until(lambda: not running.blocked("10.50.0.11"))
    over, free = lines(running)[len(before) :]
    assert re.match(r"web1 null-routed: used (999 KB|1\.00 MB) of 1\.00 MB", over)
    assert over.endswith(": 10.50.0.11, fd50::11")
    assert free == "web1 released: its allowance covers its usage again"


def test_a_reload_restores_the_blocks_at_once_with_one_line(quiet: Host) -> None:
    # A firewall's reload flushes the rules, and systemd then reloads xenbwd as well.
    guest = quiet.start("web1")
    quiet.add("web1", blocked_reason="test")
    quiet.ask("sync")
    before = lines(quiet)
    # In one commit: between two, the daemon would repair the first.
    quiet.run(["sh", "-c", r"printf '*filter\nCOMMIT\n' | iptables-legacy-restore"], check=True)
    sighup(quiet)
    assert quiet.blocked(guest.address())
    assert lines(quiet)[len(before) :] == [
        "null routes restored, another program changes the firewall: iptables: chain XENBW made;"
        f" iptables: src {guest.address()} blocked; iptables: jump in INPUT put first; 2 more",
        "configuration read again",
    ]
    sighup(quiet)
    assert lines(quiet)[len(before) + 2 :] == ["configuration read again"]


def test_nfts_reason_for_refusing_chains_is_a_problem_and_in_the_log(running: Host) -> None:
    guest = running.start("web1")
    running.ask("sync")
    # Another program made a set of another type in place of ours.
    harm = "delete table netdev xenbw; add table netdev xenbw; add set netdev xenbw sealed { type ipv4_addr; }"
    running.run(["nft", harm], check=True)
    mismatch = "datatype mismatch, expected network interface index, expression has type IPv4 address"
    problem = f"{guest.interface}: neither sealed nor metered to its last byte: nft refuses its chains: {mismatch}"
    assert until(lambda: problem in running.ask("status")["problems"])
    assert until(lambda: problem in running.log.read_text())
    guest.destroy()
    stuck = f"chains or counters of ours stay in nft, which refuses to delete them: {mismatch}"
    assert until(lambda: stuck in running.ask("status")["problems"])

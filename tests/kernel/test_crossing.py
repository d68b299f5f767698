"""A VM that is found over its allowance while another one's seal is being put: neither is let through for a moment."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.dom0 import OUTSIDE_ADDRESSES
from tests.support.effort import cases
from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import until
from tests.support.story import LIMIT

pytestmark = pytest.mark.kernel

OUTSIDE = OUTSIDE_ADDRESSES[4]
_ROUNDS = cases(5, 200)


@contextmanager
def held_up(host: Host) -> Iterator[None]:
    """The daemon takes note of nothing meanwhile, and then of all of it at once."""
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGSTOP)
    yield
    host.daemon.send_signal(signal.SIGCONT)


@contextmanager
def listening(host: Host, *argv: str) -> Iterator[Path]:
    """A program that writes down what the kernel tells, in a file."""
    output = host.directory / f"{argv[0]}.heard"
    program = host.popen(argv, output=output)
    # It has to have subscribed before anything happens.
    assert until(lambda: _netlink(program))
    yield output
    program.terminate()
    program.wait()


def _netlink(program: subprocess.Popen[bytes]) -> bool:
    try:
        table = Path(f"/proc/{program.pid}/net/netlink").read_text().splitlines()[1:]
    except OSError:
        return False
    return any(int(line.split()[2]) == program.pid and int(line.split()[3], 16) for line in table)


def index_of(host: Host, guest: Guest) -> int:
    return int(host.run(["cat", f"/sys/class/net/{guest.interface}/ifindex"], check=True).stdout)


def test_its_link_stays_down_and_its_seal_stays_shut(running: Host) -> None:
    first, second = running.start("web1"), running.start("web2")
    for guest in (first, second):
        running.add(guest.name, limit_bytes=LIMIT)
    running.ask("sync")
    index = index_of(running, second)
    with (
        listening(running, "nft", "monitor") as rules,
        listening(running, "ip", "-o", "monitor", "link") as links,
    ):
        with held_up(running):
            # What passes it is found by the kernel's counters alone, when chains are looked after to seal the first.
            for way in ("in", "out"):
                chain = f"v{second.domid}.0.{index}-{way}"
                running.run(["nft", "flush", "chain", "netdev", "xenbw", chain], check=True)
            for guest in (first, second):
                assert guest.send(LIMIT) > 0
        assert until(lambda: running.blocked(first.address()) and running.blocked(second.address()))
        assert until(lambda: not running.link_is_up(second))
        running.ask("sync")
        # The last word of what the kernel told has come when this has.
        running.run(["nft", "add", "table", "netdev", "last"], check=True)
        running.namespace.ip("link add last type bridge")
        assert until(lambda: "table netdev last" in rules.read_text() and "last" in links.read_text())
        sealed, up = _seals(rules, second), _links(links, second)
    for held, free in ((sealed, False), (up, True)):
        assert (not free) in held
        assert free not in held[held.index(not free) :]


def test_round_after_round_with_the_rules_flushed_nothing_gets_past_a_block(running: Host) -> None:
    guests = [running.start("web1"), running.start("web2")]
    index = index_of(running, guests[1])
    for _ in range(_ROUNDS):
        for guest in guests:
            running.add(guest.name, limit_bytes=sum(running.usage(guest.name)) + LIMIT)
        running.ask("sync")
        assert until(lambda: all(running.link_is_up(guest) and guest.reaches(OUTSIDE) for guest in guests))
        with held_up(running):
            # The daemon finds the second one over while it puts the seal of the first.
            for way in ("in", "out"):
                chain = f"v{guests[1].domid}.0.{index}-{way}"
                running.run(["nft", "flush", "chain", "netdev", "xenbw", chain], check=True)
            assert all(guest.send(LIMIT) > 0 for guest in guests)
        assert until(lambda: all(running.blocked(one.address()) and not running.link_is_up(one) for one in guests))
        running.run(["nft", "flush", "ruleset"], check=True)
        assert [guest.send(10_000, timeout=0.05) for guest in guests] == [0, 0]
        running.ask("sync")
        for guest in guests:
            running.raise_links(guest)
        assert [guest.send(10_000, timeout=0.05) for guest in guests] == [0, 0]


def _seals(rules: Path, guest: Guest) -> list[bool]:
    """Whether the guest's interface was sealed, after each change of the rules."""
    found, now = [], False
    for line in rules.read_text().splitlines():
        if line.startswith("# new generation"):
            found.append(now)
        elif "element netdev xenbw sealed" in line and f'"{guest.interface}"' in line:
            now = line.startswith("add")
    return found


def _links(links: Path, guest: Guest) -> list[bool]:
    """Whether its link was up, each time that the kernel told of it."""
    lines = [line for line in links.read_text().splitlines() if f" {guest.interface}@" in line]
    return ["UP" in line.split("<")[1].split(">")[0].split(",") for line in lines]

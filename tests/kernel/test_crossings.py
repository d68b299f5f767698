"""Many VMs use up their allowances in many ways: not a byte passes an allowance, and at most a frame of it is left."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from tests.support.dom0 import OUTSIDE_ADDRESSES
from tests.support.effort import cases
from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import until
from tests.support.traffic import push
from xenbw.ledger import usagelog
from xenbw.model import ZERO, Count, Counters
from xenbw.quota import FRAME, used_bytes

pytestmark = pytest.mark.kernel

_VMS = 8
_ROUNDS = cases(5, 125)
# Bytes until an allowance is used up; a blocked VM that gets less than a frame stays blocked.
_LEAST, _MOST = FRAME, 400_000
_MORE = 200_000  # bytes sent beyond that
_PATIENCE = 0.2
# The largest frame of `transfer`: payload, UDP, IPv6, Ethernet.
_DATAGRAM = 1400 + 8 + 40 + 14
_FATES = ("alive", "killed", "alive", "dead", "killed")


@dataclass(frozen=True)
class Way:
    """A way to use up an allowance. counts: what the allowance may count. frame: the largest frame it sends. use: let
    at least so many bytes pass, if all may."""

    name: str
    counts: tuple[Count, ...]
    frame: int
    use: Callable[[Host, Guest, int], object]


def _send_udp(_host: Host, guest: Guest, size: int) -> None:
    guest.send(size, timeout=_PATIENCE)


def _send_udp6(_host: Host, guest: Guest, size: int) -> None:
    guest.send(size, version=6, timeout=_PATIENCE)


def _receive_udp(_host: Host, guest: Guest, size: int) -> None:
    guest.receive(size, timeout=_PATIENCE)


def _receive_udp6(_host: Host, guest: Guest, size: int) -> None:
    guest.receive(size, version=6, timeout=_PATIENCE)


def _send_tcp(host: Host, guest: Guest, size: int) -> None:
    push(guest.namespace, host.outside, OUTSIDE_ADDRESSES[4], size, _PATIENCE)


def _receive_tcp6(host: Host, guest: Guest, size: int) -> None:
    push(host.outside, guest.namespace, guest.address(6), size, _PATIENCE)


def _both_ways(host: Host, guest: Guest, size: int) -> None:
    together = [threading.Thread(target=use, args=(host, guest, size)) for use in (_send_tcp, _receive_udp6)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()


def _by_both_vifs(host: Host, guest: Guest, size: int) -> None:
    for devid in (0, 1):
        guest.namespace.ip(f"route replace {OUTSIDE_ADDRESSES[4]} dev eth{devid}")
        # The second part is more than the whole.
        _send_tcp(host, guest, (devid + 1) * size // 2)
        _send_udp(host, guest, (devid + 1) * size // 2)


_OUT, _IN = (Count.TOTAL, Count.OUT, Count.MAX), (Count.TOTAL, Count.IN, Count.MAX)
_WAYS = (
    Way("udp out", _OUT, _DATAGRAM, _send_udp),
    Way("udp out, IPv6", _OUT, _DATAGRAM, _send_udp6),
    Way("udp in", _IN, _DATAGRAM, _receive_udp),
    Way("udp in, IPv6", _IN, _DATAGRAM, _receive_udp6),
    Way("tcp out", _OUT, FRAME, _send_tcp),
    Way("tcp in, IPv6", _IN, FRAME, _receive_tcp6),
    Way("both ways at once", tuple(Count), FRAME, _both_ways),
    Way("out by both vifs", _OUT, FRAME, _by_both_vifs),
)


@dataclass(frozen=True)
class Crossing:
    """What is to happen to a VM in a round: it uses up `limit` bytes of usage that is counted so."""

    guest: Guest
    way: Way
    count: Count
    limit: int
    size: int


def _draw(host: Host, guests: list[Guest], by: random.Random) -> list[Crossing]:
    """Give each VM an allowance, a little more than what it has used, that the kernel holds at once."""
    usage, crossings = _usage(host), []
    for guest in guests:
        way = by.choice(_WAYS)
        count, left = by.choice(way.counts), by.randrange(_LEAST, _MOST)
        used = usage.get(guest.name, ZERO)
        # Usage in the other direction is as much as all that was counted in this one, or more.
        size = left + _MORE + (abs(used.in_bytes - used.out_bytes) if count is Count.MAX else 0)
        limit = used_bytes(count, used) + left
        host.add(guest.name, limit_bytes=limit, count=count)
        crossings.append(Crossing(guest, way, count, limit, size))
    host.ask("sync")
    return crossings


def _usage(host: Host) -> dict[str, Counters]:
    host.ask("commit")
    found = usagelog.present(host.ledger())
    return {vm.name: found.get(vm.id, ZERO) for vm in host.ledger().vms().values()}


def _cross(host: Host, crossings: list[Crossing], fate: str, by: random.Random) -> None:
    """All VMs use up their allowances at once; the daemon lives, is dead, or is killed meanwhile."""
    if fate == "dead":
        host.kill_daemon()
    with ThreadPoolExecutor(len(crossings)) as pool:
        under_way = [pool.submit(one.way.use, host, one.guest, one.size) for one in crossings]
        if fate == "killed":
            time.sleep(by.uniform(0, 0.1))
            host.kill_daemon()
        for future in under_way:
            future.result()
    if fate != "alive":
        host.start_daemon()


def _blocked(host: Host, crossings: list[Crossing]) -> bool:
    """Wait until all VMs are blocked. On a busy machine a connection may end too early, so they send on."""
    for _ in range(10):
        if until(lambda: host.ledger().active_blocks().keys() == host.ledger().vms().keys(), 1):
            return True
        for one in crossings:
            one.way.use(host, one.guest, one.size)
    return False


def test_no_byte_passes_an_allowance_and_at_most_a_frame_of_it_is_left(running: Host) -> None:
    by = random.Random(21)
    guests = [
        running.start(f"web{n}", [f"10.50.0.{10 + n}", f"10.50.0.{110 + n}", f"fd50::{10 + n}"], vifs=2)
        for n in range(_VMS)
    ]
    for at in range(_ROUNDS):
        fate = _FATES[at % len(_FATES)]
        crossings = _draw(running, guests, by)
        _cross(running, crossings, fate, by)
        assert _blocked(running, crossings), (fate, _left(running, crossings))
        for one, left in zip(crossings, _left(running, crossings), strict=True):
            assert 0 <= left <= one.way.frame, (at, fate, one.guest.name, one.way.name, one.count, left)


def _left(host: Host, crossings: list[Crossing]) -> list[int]:
    """How many bytes of each allowance are left; below 0: how many passed it."""
    usage = _usage(host)
    return [one.limit - used_bytes(one.count, usage[one.guest.name]) for one in crossings]

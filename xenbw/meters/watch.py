"""Traffic as it passes: looks at the bytes and packets of vifs, and what passed between two looks.

A look reads the same counters as the daemon's meter, by itself and without changing anything. So it costs the daemon
nothing, and works without it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from xenbw.accounting import advance
from xenbw.errors import MeterError
from xenbw.meters import nft as meter
from xenbw.meters.counters import KernelMeter
from xenbw.model import NOTHING, ZERO, Amounts, Counters, Life, Mark, Reading
from xenbw.nft import nft
from xenbw.nft.netlink import Table
from xenbw.rundir.dropped import Dropped
from xenbw.vifs.interfaces import shown


class Seen(NamedTuple):
    """A vif at one look. interface: its present name. packets: like the bytes, in fields of the same names; the kernel
    counts several segments that it handles as one (GSO) as one packet."""

    interface: str
    sizes: Reading
    packets: Reading


@dataclass(frozen=True)
class Look:
    """All vifs that exist at one moment. at: seconds of the monotonic clock. dropped: the ifindexes of vifs on which tc
    drops everything. problem: why our own counters cannot be read, or ""."""

    at: float
    vifs: Mapping[Life, Seen]
    dropped: frozenset[int] = frozenset()
    problem: str = ""


class Passed(NamedTuple):
    """What passed or was refused between two looks: bytes, and packets in fields of the same names."""

    sizes: Amounts = NOTHING
    packets: Amounts = NOTHING

    def plus(self, other: Passed) -> Passed:
        return Passed(self.sizes.plus(other.sizes), self.packets.plus(other.packets))


class Watch:
    """Looks at vifs. own: whether our own counters are the measure; else the kernel's are."""

    def __init__(self, table: Table, kernel: KernelMeter, dropped: Dropped, *, own: bool) -> None:
        self._table, self._kernel, self._dropped, self._own = table, kernel, dropped, own

    def look(self, wanted: Iterable[Life]) -> Look:
        """Read the counters of these vifs, and of all others that have counters of ours. Raises MeterError if the
        kernel's counters cannot be read."""
        tallies, problem = self._tallies()
        kernel, at = self._kernel.traffic(), time.monotonic()
        there = {ifindex: shown(interface) for ifindex, interface in socket.if_nameindex()}
        lives = {Life(*life) for life in map(nft.life_of, {name.rpartition("-")[0] for name in tallies}) if life}
        found = {}
        for life in lives.union(wanted):
            interface = there.get(life.ifindex)
            # An interface that just came is in only one of the two lists.
            if interface is not None and interface in kernel:
                sizes, packets = meter.readings(tallies, nft.key(*life))
                seen = kernel[interface]
                found[life] = Seen(interface, Reading(seen[0], sizes), Reading(seen[1], packets))
        return Look(at, found, frozenset(self._dropped.since()), problem)

    def _tallies(self) -> tuple[Mapping[str, tuple[int, int]], str]:
        """Our own counters, none if they are not the measure or cannot be read; and why they cannot, or ""."""
        try:
            counted = self._table.counters() if self._own else {}
        except MeterError as error:
            return {}, str(error)
        return {name: (size, self._table.packets[name]) for name, size in counted.items()}, ""


def passed(before: Look, after: Look) -> dict[Life, Passed]:
    """What passed between two looks, on each vif that is in both."""
    found = {}
    for life, then in before.vifs.items():
        now = after.vifs.get(life)
        if now is not None:
            drops = life.ifindex in after.dropped
            shut = drops and life.ifindex in before.dropped
            pairs = ((then.sizes, now.sizes), (then.packets, now.packets))
            found[life] = Passed(*(advance(_mark(old), new, drops=drops, shut=shut)[1] for old, new in pairs))
    return found


def _mark(reading: Reading) -> Mark:
    kernel, own = reading.kernel or ZERO, reading.own
    if own is None:
        return Mark(kernel)
    counted = own.everything
    ahead = Counters(kernel.in_bytes - counted.in_bytes, kernel.out_bytes - counted.out_bytes)
    return Mark(kernel, own, ahead)

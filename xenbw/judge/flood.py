"""When a VM floods: it sends, or is sent, far more than is usual for it. Pure functions.

Each second the rates of all VMs come in. What is usual for a VM is the mean of the last hour, in each direction, of
packets and of bytes; the mean is of less time while less is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from operator import le
from typing import NamedTuple

# A rate is far above the usual from this many times the usual on, and never below the least. TCP with segmentation
# offload fills a link of 1 Gbit/s with some thousand packets a second, since a packet on a vif may have 64 KB.
TIMES = 10
LEAST_PACKETS, LEAST_BYTES = 20_000.0, 100_000_000.0
# Seconds: how long a rate has to be far above the usual, below half of that, and known, before it decides. Readings are
# seldom a second apart to the millisecond.
RISING, ENDING, KNOWN = 1.9, 30.0, 30.0
_MEMORY = 3600.0


class Rates(NamedTuple):
    """What passed a VM's vifs, or was refused there, per second. Packets are None where the meter knows only bytes."""

    in_bytes: float
    out_bytes: float
    refused_in_bytes: float = 0.0
    refused_out_bytes: float = 0.0
    in_packets: float | None = None
    out_packets: float | None = None

    @property
    def series(self) -> tuple[float, float, float, float]:
        """The rates in the order of SERIES; 0 where one is not known."""
        return self.in_packets or 0.0, self.out_packets or 0.0, self.in_bytes, self.out_bytes


class Series(NamedTuple):
    """One of the rates. unit: packets or bytes. way: in or out."""

    unit: str
    way: str


SERIES = tuple(Series(unit, way) for unit in ("packets", "bytes") for way in ("in", "out"))
_LEAST = (LEAST_PACKETS, LEAST_PACKETS, LEAST_BYTES, LEAST_BYTES)


class Usual(NamedTuple):
    """What is usual for a VM. seconds: how long it has been watched, up to an hour. means: of each of SERIES."""

    seconds: float = 0.0
    means: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


class Sums(NamedTuple):
    """What came in one direction in a time. packets: None where the meter knows only bytes."""

    seconds: float = 0.0
    packets: float | None = 0.0
    bytes: float = 0.0
    refused_bytes: float = 0.0

    def plus(self, rates: Rates, way: str, seconds: float) -> Sums:
        into = way == "in"
        packets = rates.in_packets if into else rates.out_packets
        return Sums(
            self.seconds + seconds,
            None if packets is None or self.packets is None else self.packets + packets * seconds,
            self.bytes + (rates.in_bytes if into else rates.out_bytes) * seconds,
            self.refused_bytes + (rates.refused_in_bytes if into else rates.refused_out_bytes) * seconds,
        )


class Flood(NamedTuple):
    """A flood that has begun. limit: the rate above which it is one. usual: the mean before it, None if unknown.
    upto: the sums up to the last rate that was not below half of the limit. sums: up to now."""

    series: Series
    limit: float
    usual: float | None
    upto: Sums
    sums: Sums

    @property
    def quiet(self) -> float:
        """For how many seconds it has been below half of its limit."""
        return self.sums.seconds - self.upto.seconds


class Watch(NamedTuple):
    """One VM. rising: what came since its rate is far above the usual, in the direction in which it is so."""

    usual: Usual = Usual()
    rising: Sums = Sums()
    series: Series | None = None
    flood: Flood | None = None


class Excess(NamedTuple):
    """A rate above its limit."""

    series: Series
    limit: float
    times: float


def step(watch: Watch, rates: Rates, seconds: float, pps: int, *, blamed: bool = True) -> Watch:
    """The VM's next watch, with its rates over these seconds. pps: a fixed limit in packets per second, 0 for none.
    blamed: whether a rate that is far above the usual is of the VM's own doing. A flood began if the new watch has one
    and the old one has none; it ended the other way round."""
    if watch.flood is not None:
        return _go_on(watch, watch.flood, rates, seconds)
    found = excess(watch.usual, rates, pps)
    if found is not None and not blamed:
        return Watch(watch.usual)
    if found is None:
        return Watch(_learn(watch.usual, rates, seconds))
    before = watch.rising if watch.series == found.series else Sums()
    rising = before.plus(rates, found.series.way, seconds)
    if rising.seconds < RISING:
        return Watch(watch.usual, rising, found.series)
    usual = watch.usual.means[SERIES.index(found.series)] if watch.usual.seconds >= KNOWN else None
    return Watch(watch.usual, flood=Flood(found.series, found.limit, usual, rising, rising))


def excess(usual: Usual, rates: Rates, pps: int) -> Excess | None:
    """The rate that is farthest above its limit; None if none is."""
    if pps and rates.in_packets is not None:
        limits = (float(pps), float(pps), inf, inf)
    elif usual.seconds < KNOWN:
        return None
    else:
        limits = _LEAST
    # The usual case, kept short: this runs for every VM each second.
    if all(map(le, rates.series, limits)):
        return None
    if limits is _LEAST:
        a, b, c, d = (max(least, TIMES * mean) for least, mean in zip(_LEAST, usual.means, strict=True))
        limits = a, b, c, d
    found = [
        Excess(series, limit, rate / limit)
        for series, rate, limit in zip(SERIES, rates.series, limits, strict=True)
        if rate > limit
    ]
    return max(found, key=lambda one: one.times) if found else None


def innocent(watches: Mapping[int, Watch], rates: Mapping[int, Rates], pps: int) -> set[int]:
    """The VMs that are only sent what another VM of this host floods: broadcasts, or what is meant for them. That VM is
    told, and not they."""
    most = {"packets": 0.0, "bytes": 0.0}
    receivers = dict[int, tuple[str, float]]()
    least_packets = (pps or LEAST_PACKETS) / 2
    for vm_id, rate in rates.items():
        in_packets, out_packets, in_bytes, out_bytes = rate.series
        if max(in_packets, out_packets) < least_packets and max(in_bytes, out_bytes) < LEAST_BYTES / 2:
            continue  # it neither floods nor is flooded
        watch = watches.get(vm_id, Watch())
        found = watch.flood or excess(watch.usual, rate, pps)
        if (out_packets, out_bytes) > (in_packets, in_bytes):
            if found is not None or watch.usual.seconds < KNOWN:
                most["packets"] = max(most["packets"], out_packets)
                most["bytes"] = max(most["bytes"], out_bytes)
        elif found is not None:
            unit = found.series.unit
            receivers[vm_id] = unit, in_packets if unit == "packets" else in_bytes
    return {vm_id for vm_id, (unit, into) in receivers.items() if most[unit] >= into / 2}


def _learn(usual: Usual, rates: Rates, seconds: float) -> Usual:
    known = min(usual.seconds + seconds, _MEMORY)
    weight = min(1.0, seconds / known)
    a, b, c, d = usual.means
    e, f, g, h = rates.series
    return Usual(known, (a + (e - a) * weight, b + (f - b) * weight, c + (g - c) * weight, d + (h - d) * weight))


def _go_on(watch: Watch, flood: Flood, rates: Rates, seconds: float) -> Watch:
    sums = flood.sums.plus(rates, flood.series.way, seconds)
    is_loud = rates.series[SERIES.index(flood.series)] >= flood.limit / 2
    flood = flood._replace(sums=sums, upto=sums if is_loud else flood.upto)
    return watch._replace(flood=None if flood.quiet >= ENDING else flood)


def total(rates: Iterable[Rates]) -> Rates:
    """The rates of all vifs of a VM together."""
    found = Rates(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    for one in rates:
        found = Rates(
            found.in_bytes + one.in_bytes,
            found.out_bytes + one.out_bytes,
            found.refused_in_bytes + one.refused_in_bytes,
            found.refused_out_bytes + one.refused_out_bytes,
            _sum(found.in_packets, one.in_packets),
            _sum(found.out_packets, one.out_packets),
        )
    return found


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other

"""From readings to usage: pure functions of values, without a clock, a file or an interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from xenbw.model import NOTHING, ZERO, Amounts, Binding, Cell, Counters, Mark, Period, Reading, Span

HOUR = timedelta(hours=1)
# Readings up to this far apart are normal; across a longer gap, dividing bytes by time is a guess and is marked as one.
SURE = timedelta(seconds=120)
# Bytes are not divided over hours longer ago than this. It limits into how many shares one reading can be divided.
_LONGEST = timedelta(days=400)
# Across a longer gap the history has values by the hour only.
_FINE = timedelta(days=1)
_TICK = timedelta(microseconds=1)


class Share(NamedTuple):
    """Bytes of one VM in one hour of one period. divided_bytes of them are an estimate: divided by time over a gap."""

    period_start: datetime
    hour: datetime
    in_bytes: int
    out_bytes: int
    divided_bytes: int


def hour_of(moment: datetime) -> datetime:
    """The UTC hour that contains moment."""
    return moment.replace(minute=0, second=0, microsecond=0)


def cell_start(moment: datetime) -> datetime:
    """When the five minutes that contain moment began."""
    return moment.replace(minute=moment.minute - moment.minute % 5, second=0, microsecond=0)


def delta(last: Counters, now: Counters) -> Counters:
    """Bytes between two raw readings of one interface.

    netback sums its counters over its queues and frees the queues on disconnect, so both counters fall to zero together
    (linux drivers/net/xen-netback/interface.c, xenvif_get_stats): if one fell, both began again from zero. The counters
    have 64 bits and do not wrap.
    """
    if now.in_bytes < last.in_bytes or now.out_bytes < last.out_bytes:
        return now
    return Counters(now.in_bytes - last.in_bytes, now.out_bytes - last.out_bytes)


def advance(
    mark: Mark, reading: Reading, *, drops: bool = False, shut: bool = False, dropped: bool = False
) -> tuple[Mark, Amounts]:
    """The mark of this reading, and the amounts since `mark`.

    drops: whether tc drops everything on the interface now; only the kernel's counters see what it drops of a guest's.
    shut: whether it did so at `mark` as well. dropped: whether it did so at an earlier reading, after which none was at
    rest. Until one is, nobody can tell the drop's last bytes from those that passed between the two counters' readings.

    Our own counters are the measure: they outlive the vif, and tell usage from other bytes. Where they were lost (the
    ruleset was flushed) or came late, the kernel's counters bridge the gap; all those bytes are usage.
    """
    kernel, own = reading
    if own is None:
        if kernel is None:
            return mark, NOTHING
        return Mark(kernel), _amounts(_by_kernel(mark, kernel), shut=shut)
    grown = own.since(mark.own) if mark.own is not None else None
    if kernel is None:
        return mark._replace(own=own), own if grown is None else grown
    if grown is None:
        passed, seen = _by_kernel(mark, kernel), own.everything
        beyond = Counters(max(0, passed.in_bytes - seen.in_bytes), max(0, passed.out_bytes - seen.out_bytes))
        return Mark(kernel, own, _minus(kernel, seen)), own.plus(_amounts(beyond, shut=shut))
    began_anew = kernel.in_bytes < mark.kernel.in_bytes or kernel.out_bytes < mark.kernel.out_bytes
    at_rest = kernel == mark.kernel and not any(grown)
    ahead = _minus(kernel, own.everything) if began_anew or at_rest or drops else mark.ahead
    refused = 0
    if drops:
        refused = delta(mark.kernel, kernel).out_bytes - grown.everything.out_bytes
    elif dropped and at_rest:
        refused = ahead.out_bytes - mark.ahead.out_bytes
    return Mark(kernel, own, ahead), grown.plus(NOTHING._replace(refused_out_bytes=refused)) if refused > 0 else grown


def _amounts(beyond: Counters, *, shut: bool) -> Amounts:
    """Bytes that only the kernel's counters have: usage, except bytes from a guest behind a drop by tc."""
    return Amounts(beyond.in_bytes, 0, refused_out_bytes=beyond.out_bytes) if shut else Amounts(*beyond)


def _by_kernel(mark: Mark, kernel: Counters) -> Counters:
    """The bytes that the kernel's counters have beyond `mark`."""
    if mark.own is None or kernel.in_bytes < mark.kernel.in_bytes or kernel.out_bytes < mark.kernel.out_bytes:
        return delta(mark.kernel, kernel)
    passed = _minus(_minus(kernel, mark.ahead), mark.own.everything)
    return Counters(max(0, passed.in_bytes), max(0, passed.out_bytes))


def _minus(one: Counters, other: Counters) -> Counters:
    return Counters(one.in_bytes - other.in_bytes, one.out_bytes - other.out_bytes)


def divide(
    amount: Counters, since: datetime, until: datetime, period_of: Callable[[datetime], Period]
) -> Iterator[Share]:
    """Divide an amount by time over the hours and periods between two readings; the shares sum up exactly.

    If the clock stood still or went back, the whole amount is in the hour of `until`.
    """
    since = max(since, until - _LONGEST)
    if since >= until or (hour_of(since) == hour_of(until) and period_of(since) == period_of(until)):
        yield Share(period_of(until).start, hour_of(until), *amount, 0)
        return
    total = (until - since) // _TICK
    guess = until - since > SURE
    begin, given = since, ZERO
    while begin < until:
        period = period_of(begin)
        end = min(until, hour_of(begin) + HOUR)
        if begin < period.end:
            end = min(end, period.end)
        # The running sum is rounded down, not each part: that keeps the total exact.
        passed = (end - since) // _TICK
        upto = Counters(amount.in_bytes * passed // total, amount.out_bytes * passed // total)
        part = Counters(upto.in_bytes - given.in_bytes, upto.out_bytes - given.out_bytes)
        if any(part):
            yield Share(period.start, hour_of(begin), *part, sum(part) if guess else 0)
        begin, given = end, upto


def cells(amounts: Amounts, since: datetime, until: datetime) -> Iterator[Cell]:
    """Divide amounts by time over the five minutes between two readings, over the hours if there is more than a day
    between them. The cells sum up exactly, and those of an hour to what `divide` gives that hour.

    If the clock stood still or went back, the whole amounts are in the five minutes of `until`.
    """
    since = max(since, until - _LONGEST)
    if since >= cell_start(until):
        yield Cell(Span.FIVE_MINUTES, cell_start(until), amounts)
        return
    span, start_of = (Span.HOUR, hour_of) if until - since > _FINE else (Span.FIVE_MINUTES, cell_start)
    total, step = (until - since) // _TICK, timedelta(seconds=span)
    start, given = start_of(since), NOTHING
    while start < until:
        passed = (min(until, start + step) - since) // _TICK
        upto = Amounts(*(amount * passed // total for amount in amounts))
        part = Amounts(*(now - before for now, before in zip(upto, given, strict=True)))
        if any(part):
            yield Cell(span, start, part)
        start, given = start + step, upto


class Tracked:
    """A binding being counted. mark: where the next reading is counted from; counted: the amounts credited so far;
    dropped: see `advance`."""

    __slots__ = ("binding_id", "counted", "dropped", "interface", "key", "last_at", "mark", "vm_id")

    def __init__(self, binding: Binding, since: datetime) -> None:
        self.binding_id, self.vm_id, self.interface = binding.id, binding.vm_id, binding.interface
        self.key = binding.key
        self.counted, self.mark, self.dropped = binding.counted, binding.mark, False
        self.last_at = max(binding.last_at or binding.started_at, since)


@dataclass(frozen=True)
class Pending:
    """Bytes that are not in the ledger yet. bindings: (binding_id, counted, mark, last_at). shares: summed per VM and
    hour. portions: the same bytes by (binding_id, period start). cells: (vm_id, cell), what the history gets."""

    bindings: tuple[tuple[int, Amounts, Mark, datetime], ...]
    shares: tuple[tuple[int, Share], ...]
    portions: tuple[tuple[int, datetime, Counters], ...] = ()
    cells: tuple[tuple[int, Cell], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.bindings or self.shares)


PeriodOf = Callable[[int, datetime], Period]
"""period_of(vm_id, moment): the VM's period in which bytes of that moment count."""


class Tally:
    """Usage since the last commit, in memory, for every tracked binding.

    usage[vm_id] is the VM's running total in its present period; the caller opens periods with `open_period`.
    booted_at: when the host booted, by the clock of the next reading. Bytes are never divided over a longer time than
    that, even if the clock was wrong when the last reading was recorded.
    shut: since when tc drops everything on a vif, in seconds since 1970, by ifindex.
    """

    def __init__(self) -> None:
        self.booted_at: datetime | None = None
        self.shut: Mapping[int, float] = {}
        self.tracked: dict[int, Tracked] = {}
        self.usage: dict[int, Counters] = {}
        self._period_start: dict[int, datetime] = {}
        self._ahead: dict[tuple[int, datetime], Counters] = {}
        self._touched: dict[int, Tracked] = {}
        self._shares: dict[tuple[int, datetime, datetime], list[int]] = {}
        self._portions: dict[tuple[int, datetime], list[int]] = {}
        self._cells: dict[tuple[Span, datetime], dict[int, Amounts]] = {}

    def follow(self, binding: Binding, since: datetime) -> None:
        """Count this binding from its last reading on; that reading is taken to be no older than `since`."""
        self.tracked[binding.id] = Tracked(binding, since)

    def shift(self, by: timedelta) -> None:
        """The clock was set: move the times of all last readings to the new clock."""
        for tracked in self.tracked.values():
            tracked.last_at += by

    def forget(self, binding_id: int) -> None:
        """Stop counting a binding; its credited bytes stay pending until the next commit."""
        self.tracked.pop(binding_id, None)

    def stands_in(self, vm_id: int, start: datetime) -> bool:
        """Whether the VM's present period in this tally begins at `start`."""
        return self._period_start.get(vm_id) == start

    def open_period(self, vm_id: int, start: datetime, usage: Counters | None = None) -> None:
        """Make the period from `start` the VM's present one. usage: the ledger's; None: the bytes that `credit` has
        already placed in that period."""
        placed = self._ahead.get((vm_id, start), ZERO)
        self._ahead = {key: sums for key, sums in self._ahead.items() if key[0] != vm_id or key[1] > start}
        self._period_start[vm_id], self.usage[vm_id] = start, placed if usage is None else usage

    def credit(self, readings: Mapping[int, Reading], until: datetime, period_of: PeriodOf) -> set[int]:
        """Credit each tracked binding with the bytes since its last reading. readings: by binding id, taken at `until`.
        Returns the ids of the VMs whose usage grew.
        """
        changed = set()
        hour, present = hour_of(until), cell_start(until)
        here = self._cells.setdefault((Span.FIVE_MINUTES, present), {})
        for tracked in self.tracked.values():
            reading = readings.get(tracked.binding_id)
            if reading is None:
                continue
            since, tracked.last_at = tracked.last_at, until
            if self.booted_at is not None and since < self.booted_at:
                since = self.booted_at
            drops = tracked.key.ifindex in self.shut
            shut = drops and self._was_shut(tracked, since, until)
            mark, amounts = advance(tracked.mark, reading, drops=drops, shut=shut, dropped=tracked.dropped)
            tracked.dropped = drops or (tracked.dropped and mark[:2] != tracked.mark[:2])
            if mark == tracked.mark:
                continue
            tracked.mark, tracked.counted = mark, tracked.counted.plus(amounts)
            self._touched[tracked.binding_id] = tracked
            amount, vm_id = amounts.usage, tracked.vm_id
            if since >= present:
                here[vm_id] = here[vm_id].plus(amounts) if vm_id in here else amounts
            else:
                self._place(vm_id, amounts, since, until)
            if not any(amount):
                continue
            changed.add(vm_id)
            start = self._period_start.get(vm_id)
            # The usual case, kept short: all in one hour of the VM's present period.
            if start is not None and since >= hour and period_of(vm_id, until).start == start <= since:
                self._add(tracked, start, hour, amount, 0)
                continue
            for share in divide(amount, since, until, partial(period_of, vm_id)):
                passed = Counters(share.in_bytes, share.out_bytes)
                self._add(tracked, share.period_start, share.hour, passed, share.divided_bytes)
        return changed

    def _was_shut(self, tracked: Tracked, since: datetime, until: datetime) -> bool:
        """Whether nothing from the guest passed a vif that has a drop since its last reading. A hook puts the drop on a
        new vif before anything passes. A drop of the future was put before the clock was set back."""
        put = self.shut[tracked.key.ifindex]
        return put <= since.timestamp() or put > until.timestamp() or not any(tracked.mark.kernel)

    def _place(self, vm_id: int, amounts: Amounts, since: datetime, until: datetime) -> None:
        """Place amounts in the history that were not all counted in its present five minutes."""
        for span, start, part in cells(amounts, since, until):
            placed = self._cells.setdefault((span, start), {})
            placed[vm_id] = placed[vm_id].plus(part) if vm_id in placed else part

    def _add(
        self, tracked: Tracked, period_start: datetime, hour: datetime, amount: Counters, divided_bytes: int
    ) -> None:
        vm_id = tracked.vm_id
        if period_start == self._period_start.get(vm_id):
            self.usage[vm_id] = self.usage.get(vm_id, ZERO).plus(amount)
        else:
            key = (vm_id, period_start)
            self._ahead[key] = self._ahead.get(key, ZERO).plus(amount)
        sums = self._shares.setdefault((vm_id, period_start, hour), [0, 0, 0])
        sums[0] += amount.in_bytes
        sums[1] += amount.out_bytes
        sums[2] += divided_bytes
        portion = self._portions.setdefault((tracked.binding_id, period_start), [0, 0])
        portion[0] += amount.in_bytes
        portion[1] += amount.out_bytes

    def readings(self) -> list[tuple[int, Counters, Counters]]:
        """(binding_id, the kernel's counters at the last reading, the VM's usage in the period) per tracked binding."""
        return [(t.binding_id, t.mark.kernel, self.usage.get(t.vm_id, ZERO)) for t in self.tracked.values()]

    def pending(self) -> Pending:
        """All that the next commit has to write. Call `settled` once it is written."""
        return Pending(
            tuple((t.binding_id, t.counted, t.mark, t.last_at) for t in self._touched.values()),
            tuple((vm_id, Share(start, hour, *sums)) for (vm_id, start, hour), sums in self._shares.items()),
            tuple((id_, start, Counters(*sums)) for (id_, start), sums in self._portions.items()),
            tuple(
                (vm_id, Cell(span, start, sums))
                for (span, start), placed in self._cells.items()
                for vm_id, sums in placed.items()
                if any(sums)
            ),
        )

    def settled(self) -> None:
        """Forget the pending amounts, because they are now in the ledger."""
        self._touched.clear()
        self._shares.clear()
        self._portions.clear()
        self._cells.clear()

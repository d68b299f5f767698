"""Forecast alerts: a message once it is sure that a VM will cross its allowance before its period ends, and again when
that changes.

Used by the daemon's housekeeping. A forecast is sure if the VM has two days of history, and two looks an hour apart
tell the same time, to a day.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from xenbw import quota
from xenbw.accounting import HOUR, Tally, hour_of
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge
from xenbw.ledger import usagelog
from xenbw.ledger.ledger import Ledger
from xenbw.model import ZERO, Entry, State
from xenbw.report.forecast import PAST, crossing, metered
from xenbw.tell.announcement import Announcement, forecast, forecast_off
from xenbw.tell.message import Case

CALL = 10.0
"""Seconds between two calls of `look`."""
_APART = HOUR.total_seconds()  # seconds of uptime between two looks at a VM
_HISTORY = timedelta(days=2)
# A forecast that moves by no more than this is the same one. It is also looked for so long after the period's end: a
# crossing near the end would otherwise come and go with each look.
_SLACK = timedelta(days=1)
_FREE = (State.OK, State.WARNED)


class _Look(NamedTuple):
    """A look at a VM, and what it found: when the VM crosses its allowance, the end of the search if it does not, or
    None if that cannot be told."""

    elapsed: float
    crosses_at: datetime | None


class Forecasts:
    """Looks at each VM once an hour, at a few in each call: one look takes some 2 ms."""

    def __init__(self, ledger: Ledger, tally: Tally, roster: Roster, judge: Judge) -> None:
        self._ledger, self._tally, self._roster, self._judge = ledger, tally, roster, judge
        self._looks: dict[int, _Look] = {}

    def look(self, at: datetime, elapsed: float) -> None:
        """Look at the VMs whose turn it is, and announce forecasts that are new, moved or off. at: the time by a clock
        that is trusted. elapsed: seconds of uptime. Raises LedgerError."""
        entries = self._roster.entries
        self._looks = {vm_id: look for vm_id, look in self._looks.items() if vm_id in entries}
        last = {vm_id: self._looks[vm_id].elapsed if vm_id in self._looks else float("-inf") for vm_id in entries}
        due = sorted((vm_id for vm_id in entries if elapsed - last[vm_id] >= _APART), key=last.__getitem__)
        running = {tracked.vm_id for tracked in self._tally.tracked.values()}
        for vm_id in due[: 1 + int(len(entries) * CALL / _APART)]:
            before = self._looks.get(vm_id)
            found = self._find(entries[vm_id], at) if vm_id in running else None
            self._looks[vm_id] = _Look(elapsed, found)
            self._settle(entries[vm_id], before.crosses_at if before else None, found, at)

    def _find(self, entry: Entry, at: datetime) -> datetime | None:
        """When the VM crosses its allowance, as in _Look."""
        if not _may_cross(entry):
            return None
        hours = metered(usagelog.hours(self._ledger, entry.vm.id, hour_of(at - PAST)))
        if not hours or hours[0][0] > at - _HISTORY:
            return None
        until, zone = entry.period.end + _SLACK, self._judge.settings.period.timezone
        used = entry.used(self._tally.usage.get(entry.vm.id, ZERO))
        return crossing(entry.allowance, used, hours, at, until, zone) or until

    def _settle(self, entry: Entry, before: datetime | None, found: datetime | None, at: datetime) -> None:
        """Announce what two looks found, if it is sure and new. Raises LedgerError."""
        told = entry.vm.forecast_at
        if not _may_cross(entry):
            # The VM has crossed it, or has no allowance any more: other messages tell of that.
            if told is not None:
                self._record(entry, None, None, at)
        elif found is None or not _near(found, before) or _near(found, told):
            return
        elif found < entry.period.end:
            self._record(entry, found, forecast(self._case(entry, at), found, told), at)
        elif told is not None:
            self._record(entry, None, forecast_off(self._case(entry, at), told), at)

    def _case(self, entry: Entry, at: datetime) -> Case:
        used = entry.used(self._tally.usage.get(entry.vm.id, ZERO))
        return self._judge.case(entry, quota.stand(entry.vm, entry.allowance, entry.enforced, used, entry.period), at)

    def _record(self, entry: Entry, crosses_at: datetime | None, told: Announcement | None, at: datetime) -> None:
        """Record what was told together with its message, so that a restart repeats none."""
        vm_id = entry.vm.id
        with self._ledger.transaction():
            self._ledger.set_vm(vm_id, forecast_at=crosses_at)
            if told is not None:
                self._judge.announce(told, vm_id, at)
        self._roster.entries[vm_id] = replace(entry, vm=replace(entry.vm, forecast_at=crosses_at))
        if told is not None:
            self._judge.news.told(entry.vm, told)


def _near(one: datetime, other: datetime | None) -> bool:
    """Whether two forecasts are the same one."""
    return other is not None and abs(one - other) <= _SLACK


def _may_cross(entry: Entry) -> bool:
    """Whether the VM has an allowance that is enforced, and is free to use it up."""
    return entry.enforced and entry.allowance.limit_bytes is not None and entry.vm.state in _FREE

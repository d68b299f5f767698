"""The VMs that this host knows, each with its allowance and its present period."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from xenbw import quota
from xenbw.accounting import PeriodOf
from xenbw.clock import Moment
from xenbw.config import Settings
from xenbw.ledger import digests, portions, shared, usagelog
from xenbw.ledger.ledger import Ledger
from xenbw.model import VM, ZERO, Allowance, Binding, Counters, Digest, Entry, Period

_UNTOLD: Mapping[str, Any] = {"threshold": 0, "forecast_at": None}  # columns of a VM in a new period


def allowance_of(vm: VM, default: Allowance) -> Allowance:
    """The VM's own settings; [default] supplies the others. The VM's own rate replaces both rates of [default]."""
    limit = None if vm.unlimited else default.limit_bytes if vm.limit_bytes is None else vm.limit_bytes
    return Allowance(
        limit_bytes=limit,
        count=vm.count or default.count,
        thresholds=vm.thresholds or default.thresholds,
        action=vm.action or default.action,
        reset_day=vm.reset_day or default.reset_day,
        rate=vm.rate or default.rate,
        rate_in=vm.rate_in or (None if vm.rate else default.rate_in),
        hard_limit_bytes=_hard_limit(vm, default, limit),
    )


def _hard_limit(vm: VM, default: Allowance, limit: int | None) -> int | None:
    """The VM's own hard limit, else the default's, unless the VM may use more than that by its own settings."""
    hard = default.hard_limit_bytes
    if vm.hard_limit_bytes is not None or hard is None:
        return vm.hard_limit_bytes or None  # 0: none, whatever the default
    return None if vm.unlimited or (limit is not None and limit > hard) else hard


@lru_cache(maxsize=1024)
def _period(start: datetime, reset_day: int, zone: ZoneInfo) -> Period:
    """The period that begins at `start`; VMs with the same period, which are most of them, share one object."""
    return Period(start, quota.period_at(start, reset_day, zone).end)


def _usage_if_in(recorded: tuple[datetime, Counters] | None, start: datetime) -> Counters:
    """The usage of (period start, usage) if it is of the period that begins at `start`, else none."""
    return recorded[1] if recorded is not None and recorded[0] == start else ZERO


class Roster:
    """The ledger's VMs in memory, with their periods.

    Periods only advance: a clock that goes back re-opens none, and none begins while the clock is not trusted.
    The daemon writes new periods into the ledger. The CLI (record False) only computes them: a process that writes
    that a period began must also split the bytes since the last reading between the two periods.
    """

    def __init__(self, ledger: Ledger, settings: Settings, *, record: bool = True) -> None:
        self._ledger, self.settings, self._record = ledger, settings, record
        self._reckoned: set[int] = set()
        self.entries: dict[int, Entry] = {}

    def load(self, moment: Moment) -> set[int]:
        """Read the VMs again. A VM without a period gets one; after a change of reset day or zone, the usage of the
        hours concerned moves to the right period. Returns the ids of these VMs."""
        zone, default = self.settings.period.timezone, self.settings.default_allowance
        entries, reckoned, elsewhere = {}, set(), shared.elsewhere(self._ledger)
        for vm in self._ledger.vms().values():
            allowance = allowance_of(vm, default)
            rule = f"{allowance.reset_day}@{zone.key}"
            start = vm.period_start
            if start is None or (vm.period_rule != rule and moment.trusted):
                start = quota.period_at(moment.at, allowance.reset_day, zone).start
                # A period computed while the clock was doubted has no rule yet, and is computed again with a trusted
                # clock.
                before = vm.period_start
                # The clock is never doubted for a whole period. So if the old period had already ended, its clock
                # was wrong.
                if (
                    self._record
                    and before
                    and _period(before, allowance.reset_day, zone).end < start
                    and not vm.period_rule
                ):
                    usagelog.refile_untimed(self._ledger, vm.id, before, start, moment.at)
                if self._record:
                    usagelog.refile(self._ledger, vm.id, start, rule if moment.trusted else "")
                reckoned.add(vm.id)
            entries[vm.id] = Entry(
                replace(vm, period_start=start, period_rule=rule),
                allowance,
                vm.added_at is not None or self.settings.default.enforce,
                _period(start, allowance.reset_day, zone),
                _usage_if_in(elsewhere.get(vm.id), start),
            )
        self.entries, self._reckoned = entries, set() if self._record else reckoned
        return reckoned

    def period_of(self, trusted: bool) -> PeriodOf:
        """A function that gives the period for bytes of a moment: never a period before the present one, and none
        after it while the clock is not trusted."""
        entries, zone = self.entries, self.settings.period.timezone

        def period_of(vm_id: int, moment: datetime) -> Period:
            entry = entries[vm_id]
            if moment < entry.period.end or not trusted:
                return entry.period
            return quota.period_at(moment, entry.allowance.reset_day, zone)

        return period_of

    def roll(self, moment: Moment) -> list[int]:
        """Begin the period that contains this moment for every VM whose last period ended; returns their ids."""
        if not moment.trusted:
            return []
        rolled = {}
        for vm_id, entry in self.entries.items():
            if moment.at >= entry.period.end:
                period = quota.period_at(moment.at, entry.allowance.reset_day, self.settings.period.timezone)
                vm = replace(entry.vm, period_start=period.start, **_UNTOLD)
                rolled[vm_id] = replace(entry, vm=vm, period=period, elsewhere=ZERO)
        if rolled and self._record:
            with self._ledger.transaction():
                for vm_id, entry in rolled.items():
                    self._ledger.set_vm(vm_id, period_start=entry.period.start, **_UNTOLD)
        self.entries.update(rolled)
        return list(rolled)

    def usage(self) -> dict[int, Counters]:
        """Each VM's usage on this host in the period that this roster has for it, from the ledger."""
        recorded, vms = usagelog.present(self._ledger), self._ledger.vms()
        found = {}
        for vm_id, entry in self.entries.items():
            start = entry.period.start
            if vm_id in self._reckoned:
                found[vm_id] = usagelog.since(self._ledger, vm_id, start)
            elif vm_id in vms and vms[vm_id].period_start == start:
                found[vm_id] = recorded.get(vm_id, ZERO)
            else:
                found[vm_id] = usagelog.of_period(self._ledger, vm_id, start)
        return found

    def earlier(self, vm_id: int) -> list[Digest]:
        """The VM's earlier lives in the period that this roster has for it, summed up."""
        start = self.entries[vm_id].period.start
        return digests.of_period(self._ledger, vm_id, start, refiled=vm_id in self._reckoned)

    def lives(self, vm_id: int) -> list[tuple[Binding, Counters]]:
        """The VM's bindings in the period that this roster has for it, oldest first, each with the usage it counted."""
        start = self.entries[vm_id].period.start
        return portions.lives(self._ledger, vm_id, start, refiled=vm_id in self._reckoned)

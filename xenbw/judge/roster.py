"""The VMs this host knows, each with the allowance that holds for it and its present period."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from xenbw import quota
from xenbw.accounting import PeriodOf
from xenbw.clock import Moment
from xenbw.config import Settings
from xenbw.ledger import digests, portions, shared, usagelog
from xenbw.ledger.ledger import Ledger
from xenbw.model import VM, ZERO, Allowance, Binding, Counters, Digest, Entry, Period


def allowance_of(vm: VM, default: Allowance) -> Allowance:
    """The VM's own settings over the config's [default]."""
    return Allowance(
        limit_bytes=None if vm.unlimited else default.limit_bytes if vm.limit_bytes is None else vm.limit_bytes,
        count=vm.count or default.count,
        warn_percent=vm.warn_percent or default.warn_percent,
        action=vm.action or default.action,
        reset_day=vm.reset_day or default.reset_day,
    )


@lru_cache(maxsize=1024)
def _period(start: datetime, reset_day: int, zone: ZoneInfo) -> Period:
    """The period that starts there; one object for all VMs that share it, which most do."""
    return Period(start, quota.period_at(start, reset_day, zone).end)


def _of_period(told: tuple[datetime, Counters] | None, start: datetime) -> Counters:
    return told[1] if told is not None and told[0] == start else ZERO


class Roster:
    """The ledger's VMs in memory, with their periods.

    A period only ever advances: a clock that goes back re-opens none, and none opens while the clock is not trusted.
    The daemon records what it reckons. The CLI (record False) only reckons: who writes that a period began must also
    have divided the bytes that passed since the last one.
    """

    def __init__(self, ledger: Ledger, settings: Settings, *, record: bool = True) -> None:
        self._ledger, self.settings, self._record = ledger, settings, record
        self._reckoned: set[int] = set()
        self.entries: dict[int, Entry] = {}

    def load(self, moment: Moment) -> set[int]:
        """Read the VMs anew; a VM without a period gets one, and a changed reset day or zone is applied to the usage
        of the hours it concerns. Returns the ids of those VMs."""
        zone, default = self.settings.period.timezone, self.settings.default_allowance
        entries, reckoned, elsewhere = {}, set(), shared.elsewhere(self._ledger)
        for vm in self._ledger.vms().values():
            allowance = allowance_of(vm, default)
            rule = f"{allowance.reset_day}@{zone.key}"
            start = vm.period_start
            if start is None or (vm.period_rule != rule and moment.trusted):
                start = quota.period_at(moment.at, allowance.reset_day, zone).start
                # A period reckoned by a clock that may be wrong has no rule yet, and is reckoned anew by a good one.
                before = vm.period_start
                # No doubt lasts for a whole period: the clock by which that one was reckoned was wrong by more.
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
                _of_period(elsewhere.get(vm.id), start),
            )
        self.entries, self._reckoned = entries, set() if self._record else reckoned
        return reckoned

    def period_of(self, trusted: bool) -> PeriodOf:
        """In which period bytes count that passed at some moment: never before the present one, and not after it
        while the clock is not trusted."""
        entries, zone = self.entries, self.settings.period.timezone

        def period_of(vm_id: int, moment: datetime) -> Period:
            entry = entries[vm_id]
            if moment < entry.period.end or not trusted:
                return entry.period
            return quota.period_at(moment, entry.allowance.reset_day, zone)

        return period_of

    def roll(self, moment: Moment) -> list[int]:
        """Open the period that contains this moment for every VM whose last one ended; returns those VMs' ids."""
        if not moment.trusted:
            return []
        rolled = {}
        for vm_id, entry in self.entries.items():
            if moment.at >= entry.period.end:
                period = quota.period_at(moment.at, entry.allowance.reset_day, self.settings.period.timezone)
                vm = replace(entry.vm, period_start=period.start)
                rolled[vm_id] = replace(entry, vm=vm, period=period, elsewhere=ZERO)
        if rolled and self._record:
            with self._ledger.transaction():
                for vm_id, entry in rolled.items():
                    self._ledger.set_vm(vm_id, period_start=entry.period.start)
        self.entries.update(rolled)
        return list(rolled)

    def usage(self) -> dict[int, Counters]:
        """Each VM's usage on this host in its period as it is reckoned here, from the ledger."""
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
        """What is told together of the VM's earlier lives in its period as it is reckoned here."""
        start = self.entries[vm_id].period.start
        return digests.of_period(self._ledger, vm_id, start, refiled=vm_id in self._reckoned)

    def lives(self, vm_id: int) -> list[tuple[Binding, Counters]]:
        """The VM's bindings of its period as it is reckoned here, oldest first, with what of its usage each counted."""
        start = self.entries[vm_id].period.start
        return portions.lives(self._ledger, vm_id, start, refiled=vm_id in self._reckoned)

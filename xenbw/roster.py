"""The VMs this host knows, each with the allowance that holds for it and its present period."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from xenbw import quota
from xenbw.accounting import PeriodOf
from xenbw.clock import Moment
from xenbw.config import Settings
from xenbw.model import VM, Allowance, Period
from xenbw.store.ledger import Ledger


@dataclass(frozen=True)
class Entry:
    """One VM. enforced: whether going over its allowance may block it."""

    vm: VM
    allowance: Allowance
    enforced: bool
    period: Period


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


class Roster:
    """The ledger's VMs in memory, with their periods.

    A period only ever advances: a clock that goes back re-opens none, and none opens while the clock is not trusted.
    """

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self.settings = ledger, settings
        self.entries: dict[int, Entry] = {}

    def load(self, moment: Moment) -> set[int]:
        """Read the VMs anew; a VM without a period gets one, and a changed reset day or zone is applied to the usage
        of the hours it concerns. Returns the ids of those VMs."""
        zone, default = self.settings.period.timezone, self.settings.default_allowance
        entries, reckoned = {}, set()
        for vm in self._ledger.vms().values():
            allowance = allowance_of(vm, default)
            rule = f"{allowance.reset_day}@{zone.key}"
            start = vm.period_start
            if start is None or (vm.period_rule != rule and moment.trusted):
                start = quota.period_at(moment.at, allowance.reset_day, zone).start
                # A period reckoned by a clock that may be wrong has no rule yet, and is reckoned anew by a good one.
                self._ledger.refile(vm.id, start, rule if moment.trusted else "")
                reckoned.add(vm.id)
            entries[vm.id] = Entry(
                replace(vm, period_start=start, period_rule=rule),
                allowance,
                vm.added_at is not None or self.settings.default.enforce,
                _period(start, allowance.reset_day, zone),
            )
        self.entries = entries
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
        ended = [id_ for id_, entry in self.entries.items() if moment.at >= entry.period.end]
        if ended:
            with self._ledger.transaction():
                for vm_id in ended:
                    entry = self.entries[vm_id]
                    period = quota.period_at(moment.at, entry.allowance.reset_day, self.settings.period.timezone)
                    self._ledger.set_vm(vm_id, period_start=period.start)
                    self.entries[vm_id] = replace(entry, vm=replace(entry.vm, period_start=period.start), period=period)
        return ended

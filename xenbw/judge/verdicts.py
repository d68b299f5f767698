"""Verdicts: the pure rule (quota.py) asked of each VM, recorded in the ledger and announced.

Used by the daemon in its rounds, and by the CLI where no daemon runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

from xenbw import quota
from xenbw.clock import Moment
from xenbw.config import Settings
from xenbw.judge.roster import Roster
from xenbw.ledger import blocklog, viflog
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.model import ZERO, Block, Cause, Counters, Entry, State
from xenbw.quota import Standing
from xenbw.tell import message
from xenbw.tell.announcement import Announcement, announcement, why_released
from xenbw.tell.news import News
from xenbw.tell.post import post

_NONE: Mapping[int, Collection[str]] = MappingProxyType({})


class Judge:
    """Judges VMs.

    failure: why the last verdicts could not be recorded. unsettled: ids of the VMs concerned, to be judged again.
    unrecorded: blocks of those that are over; they hold all the same.
    throttled: ids of VMs whose throttle could not be recorded; it holds all the same.
    queued: whether a message was put into the outbox; whoever sends the messages resets it.
    """

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._ledger, self.settings = ledger, settings
        self.news = News()
        self.queued = False
        self.failure: LedgerError | None = None
        self.unsettled: set[int] = set()
        self.unrecorded: dict[int, Block] = {}
        self.throttled: set[int] = set()

    def judge(
        self,
        roster: Roster,
        usage: Mapping[int, Counters],
        vm_ids: Iterable[int],
        moment: Moment,
        spent: Mapping[int, Collection[str]] = _NONE,
    ) -> bool:
        """Judge these VMs; record and announce what changed. spent: the kinds of tripwires that ran out, by VM. Whether
        blocks or throttles changed."""
        blocks = self._ledger.active_blocks()
        changed, self.failure = False, None
        for vm_id in vm_ids:
            entry = roster.entries[vm_id]
            used = entry.used(usage.get(vm_id, ZERO))
            standing = quota.stand(entry.vm, entry.allowance, entry.enforced, used, entry.period, spent.get(vm_id, ()))
            block = blocks.get(vm_id)
            cause = block.cause if block else None
            unrecorded = self.unrecorded.pop(vm_id, None) is not None or vm_id in self.throttled
            self.unsettled.discard(vm_id)
            self.throttled.discard(vm_id)
            if _recorded(entry, standing, block):
                self.news.as_recorded(vm_id)
                changed = changed or unrecorded
                continue
            try:
                self._settle(entry, standing, block, moment.at)
                roster.entries[vm_id] = _standing_now(entry, standing, moment.at)
            except LedgerError as error:
                # A full disk must not let a VM through: it is blocked now and recorded when that works again.
                self.failure = error
                self.unsettled.add(vm_id)
                if standing.throttle is not None:
                    self.throttled.add(vm_id)
                if standing.block is not None:
                    until = block_until(entry, standing.block)
                    self.unrecorded[vm_id] = Block(vm_id, standing.block, standing.reason, moment.at, until)
            throttled = entry.vm.state is State.THROTTLED
            changed = changed or cause != standing.block or throttled is not (standing.throttle is not None)
        return changed

    def _settle(self, entry: Entry, standing: Standing, block: Block | None, at: datetime) -> None:
        """Record a verdict and announce it. Raises LedgerError."""
        until, recorded = block_until(entry, standing.block), False
        told = announcement(entry, standing, block, until, lambda: self.case(entry, standing, at))
        try:
            with self._ledger.transaction():
                self._record(entry, standing, block, until, at)
                if told is not None:
                    self.announce(told, entry.vm.id, at)
            recorded = True
        finally:
            if told is not None:
                self.news.verdict(entry.vm, told, recorded=recorded)

    def _record(
        self, entry: Entry, standing: Standing, block: Block | None, until: datetime | None, at: datetime
    ) -> None:
        vm = entry.vm
        since = vm.state_since if standing.state is vm.state else at
        self._ledger.set_vm(
            vm.id,
            state=standing.state,
            state_reason=standing.reason,
            state_since=since,
            threshold=standing.verdict.threshold,
        )
        if standing.block is not None:
            blocklog.block(self._ledger, vm.id, standing.block, standing.reason, at, until)
        elif block is not None:
            blocklog.lift(self._ledger, vm.id, at, why_released(block, standing, at))

    def announce(self, told: Announcement, vm_id: int | None, at: datetime) -> None:
        """Record an event, of a VM or of the host, and queue its messages. Raises LedgerError."""
        self._ledger.record(at, told.kind, told.text, vm_id)
        if post(self._ledger, self.settings, told, at):
            self.queued = True

    def case(self, entry: Entry, standing: Standing | None, at: datetime) -> message.Case:
        addresses = viflog.addresses_of(self._ledger, entry.vm.id).union(entry.vm.ips)
        ordered = sorted(addresses, key=lambda address: (address.version, int(address)))
        return message.Case(
            host=self.settings.host_name,
            name=entry.vm.name,
            reason=standing.reason if standing else entry.vm.state_reason,
            addresses=ordered,
            period=entry.period,
            at=at,
            zone=self.settings.period.timezone,
            allowance=entry.allowance,
            used_bytes=standing.verdict.used_bytes if standing else None,
            tenant=entry.vm.mail or (),
        )


def _standing_now(entry: Entry, standing: Standing, at: datetime) -> Entry:
    since = entry.vm.state_since if standing.state is entry.vm.state else at
    vm = replace(
        entry.vm,
        state=standing.state,
        state_reason=standing.reason,
        state_since=since,
        threshold=standing.verdict.threshold,
    )
    return replace(entry, vm=vm)


def _recorded(entry: Entry, standing: Standing, block: Block | None) -> bool:
    """Whether the ledger has this standing already, with its block and the threshold that was reached."""
    now = (standing.state, standing.block, standing.verdict.threshold)
    cause, until = (block.cause, block.until) if block else (None, None)
    return now == (entry.vm.state, cause, entry.vm.threshold or 0) and block_until(entry, cause) == until


def block_until(entry: Entry, cause: Cause | None) -> datetime | None:
    """When a block for that cause ends by itself."""
    return entry.period.end if cause is Cause.QUOTA else None


def settle_kept(ledger: Ledger, roster: Roster, usage: Mapping[int, Counters]) -> None:
    """A VM that was kept blocked since the ledger lacked its block, and that is over its allowance by what the ledger
    has, is blocked for its usage from now on: its block ends with its period, as it would have. Raises LedgerError."""
    for vm_id in ledger.kept.keys() & roster.entries.keys():
        entry = roster.entries[vm_id]
        used = entry.used(usage.get(vm_id, ZERO))
        vm = replace(entry.vm, blocked_reason=None)
        if quota.stand(vm, entry.allowance, entry.enforced, used, entry.period).block is Cause.QUOTA:
            ledger.set_vm(vm_id, blocked_reason=None)

"""A round: repair counters, read, credit, judge, reconcile; repeated while verdicts change, never nested."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

from xenbw.accounting import Tally
from xenbw.blocks.tripwire_text import line_of
from xenbw.daemon.accounts import Accounts
from xenbw.daemon.now import Now
from xenbw.enforce.desired import Present
from xenbw.enforce.protect import Protected
from xenbw.enforce.reconcile import Reconciler
from xenbw.errors import MeterError
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge
from xenbw.ledger.ledger import LedgerError
from xenbw.meters.metering import Metering
from xenbw.model import Action, Entry, State
from xenbw.nft.objects import Quota
from xenbw.nft.port import Port
from xenbw.nft.quotas import Quotas
from xenbw.tell.complaints import Complaints
from xenbw.tell.journal import about
from xenbw.vifs.census import Census

log = logging.getLogger(__name__)


# The states of VMs that are held already where a tripwire of each kind runs out.
_HELD = {"trip": (State.OVER, State.BLOCKED), "slow": (State.OVER, State.BLOCKED, State.THROTTLED)}


class Rounds:
    """The rounds, with the parts that do each step."""

    def __init__(
        self,
        tally: Tally,
        metering: Metering,
        quotas: Quotas,
        census: Census,
        accounts: Accounts,
        roster: Roster,
        judge: Judge,
        reconciler: Reconciler,
        protected: Protected,
        now: Now,
        complaints: Complaints,
    ) -> None:
        self._tally, self._metering, self._census, self._accounts = tally, metering, census, accounts
        self._quotas = quotas
        self._roster, self._judge, self._reconciler, self._protected = roster, judge, reconciler, protected
        self._now, self._complaints = now, complaints

    def play(self, due: Iterable[int] = (), *, look: bool = False, hold: bool = False) -> list[str]:
        """Repair counters, read, credit, judge, reconcile; repeat while verdicts change, but judge each VM once.

        due: VMs to judge in any case; other VMs are judged if they may have crossed a limit. look: whether to check and
        repair counters and seals. hold: whether to reconcile even if no verdict changes. Returns what blocks changed.
        """
        changes: list[str] = []
        judged: set[int] = set()
        settled = False
        due = set(due)
        while True:
            self._tally.shut = self._reconciler.shut()
            self._accounts.count(self._ports() if look or self._metering.bridged else None)
            spent = self._spent(self._quotas.after)
            hold = self._roll() or hold
            if met := self._metering.aliases.take_news():
                # The reconciler reads them from the ledger, and the next look reminds the kernel of all their vifs.
                self._accounts.commit(durable=False)
                hold = True
            due = ((due | self._crossed() | spent.keys()) & self._roster.entries.keys()) - judged
            moved = bool(due) and self._pass_judgement(due, spent)
            judged |= due
            if moved and not look:
                # To seal a vif repairs its chains, and the traffic that passed them by is counted before.
                self._accounts.count(self._ports())
            # A tripwire that ran out although its VM may use more is made anew.
            if moved or hold or spent:
                changes += self.hold()
            elif look or self._quotas.unsettled:
                self._reconciler.wire(self._roster, self._tally.usage, self._present())
            # What passed while a tripwire was made is counted at once, or so much more could pass its line.
            if not moved and not met and not (self._quotas.made and not settled):
                return changes
            if moved:
                self._accounts.commit()
            due, look, hold, settled = set(), True, False, not moved

    @property
    def tripwired(self) -> frozenset[int]:
        """The ids of the VMs whose allowances the kernel holds."""
        return frozenset(line[0] for line in map(line_of, self._quotas.after) if line is not None)

    def count(self) -> None:
        """Read and credit, no more."""
        self._tally.shut = self._reconciler.shut()
        self._accounts.count(None)
        self._quotas.forget()

    def trip(self, names: Collection[str]) -> bool:
        """Judge the VMs whose quota objects ran out by the counters of these VMs alone, and null-route the VMs that are
        blocked now. names: the objects'. Whether verdicts changed: then a round that holds all blocks has to follow."""
        try:
            spent = self._spent(self._quotas.now(names))
        except MeterError:
            return False  # a round reports it
        moment, entries = self._now.moment, self._roster.entries
        if not spent or any(moment.at >= entries[vm_id].period.end for vm_id in spent):
            return False
        self._tally.shut = self._reconciler.shut()
        if not self._accounts.glance(spent) or not self._pass_judgement(spent, spent):
            return False
        try:
            self._reconciler.hasten(self._roster)
        except LedgerError as error:
            self._accounts.failed(error)
        self._accounts.commit()
        return True

    def _spent(self, quotas: Mapping[str, Quota]) -> dict[int, set[str]]:
        """The kinds of tripwires that ran out, by VM, of VMs that are not held for it yet."""
        found: dict[int, set[str]] = {}
        for name, quota in quotas.items():
            line = line_of(name) if quota.spent else None
            entry = self._roster.entries.get(line[0]) if line else None
            if line and entry and not self._holds(entry, line[1]):
                found.setdefault(line[0], set()).add(line[1])
        return found

    def _holds(self, entry: Entry, kind: str) -> bool:
        """Whether the VM is held already where a tripwire of this kind runs out."""
        # A VM that is only warned at its allowance is over it long before it is blocked at its hard limit.
        if kind == "trip" and entry.vm.state is State.OVER and entry.allowance.action is Action.WARN:
            return entry.vm.id in self._reconciler.blocked
        return entry.vm.state in _HELD[kind]

    def _roll(self) -> bool:
        """Begin the periods that are due. Whether one began."""
        try:
            return self._accounts.roll()
        except LedgerError as error:
            self._accounts.failed(error)
            return False

    def _crossed(self) -> set[int]:
        """VMs that may have crossed a limit, and those whose period began."""
        crossed = self._accounts.crossed & self._roster.entries.keys()
        if crossed:
            # After a crash the CLI, which counts nothing, has to come to the same verdict from the ledger.
            self._accounts.commit(durable=False)
        return crossed

    def _pass_judgement(self, vm_ids: Collection[int], spent: Mapping[int, Collection[str]]) -> bool:
        """Judge these VMs. Whether blocks changed."""
        try:
            changed = self._judge.judge(self._roster, self._tally.usage, vm_ids, self._now.moment, spent)
        except LedgerError as error:
            self._accounts.failed(error)
            return False
        self._accounts.judged(vm_ids)
        self._log_news()
        if self._judge.failure is not None:
            self._accounts.failed(self._judge.failure)
        return changed

    def hold(self) -> list[str]:
        """Reconcile by the present verdicts. Returns what blocks changed."""
        self._reconciler.protect = self._protected.networks | set(self._reconciler.settings.enforce.protect)
        try:
            changes = self._reconciler.reconcile(self._roster, self._tally.usage, self._now.moment, self._present())
        except LedgerError as error:
            self._accounts.failed(error)
            return []
        self._log_news()
        problems = [*self._reconciler.problems, *self._metering.problems, *self._protected.problems]
        self._complaints.obstacles(list(dict.fromkeys(problems)), self._now.tick.elapsed)
        return changes

    def _log_news(self) -> None:
        for line in self._judge.news.take():
            log.log(line.level, "%s", line.text, extra=about(line.event, line.vm))

    def _present(self) -> Present:
        arriving = [
            (Port(*vif.life, vif.interface, facts.mac), facts.name or "") for vif, facts in self._census.arriving
        ]
        return Present(self._census.bound, arriving, self._census.waiting)

    def _ports(self) -> tuple[Port, ...]:
        return self._reconciler.ports(self._roster, self._present())

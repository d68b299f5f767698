"""A round: repair counters, read, credit, judge, reconcile; repeated while verdicts change, never nested."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable

from xenbw.accounting import Tally
from xenbw.daemon.accounts import Accounts
from xenbw.daemon.now import Now
from xenbw.enforce.desired import Present
from xenbw.enforce.protect import Protected
from xenbw.enforce.reconcile import Reconciler
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge
from xenbw.ledger.ledger import LedgerError
from xenbw.meters.metering import Metering
from xenbw.nft.port import Port
from xenbw.tell.complaints import Complaints
from xenbw.vifs.census import Census

log = logging.getLogger(__name__)


class Rounds:
    """The rounds, with the parts that do each step."""

    def __init__(
        self,
        tally: Tally,
        metering: Metering,
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
        self._roster, self._judge, self._reconciler, self._protected = roster, judge, reconciler, protected
        self._now, self._complaints = now, complaints

    def play(self, due: Iterable[int] = (), *, look: bool = False, hold: bool = False) -> list[str]:
        """Repair counters, read, credit, judge, reconcile; repeat while verdicts change, but judge each VM once.

        due: VMs to judge in any case; other VMs are judged if they may have crossed a limit. look: whether to check and
        repair counters and seals. hold: whether to reconcile even if no verdict changes. Returns what blocks changed.
        """
        changes: list[str] = []
        judged: set[int] = set()
        due = set(due)
        while True:
            self._tally.shut = self._reconciler.shut()
            self._accounts.count(self._ports() if look or self._metering.bridged else None)
            due = ((due | self._crossed()) & self._roster.entries.keys()) - judged
            moved = bool(due) and self._pass_judgement(due)
            judged |= due
            if moved and not look:
                # To seal a vif repairs its chains, and the traffic that passed them by is counted before.
                self._accounts.count(self._ports())
            if moved or hold:
                changes += self.hold()
            if not moved:
                return changes
            self._accounts.commit()
            due, look, hold = set(), True, False

    def _crossed(self) -> set[int]:
        """VMs that may have crossed a limit, and those whose period began."""
        try:
            self._accounts.roll()
        except LedgerError as error:
            self._accounts.failed(error)
        crossed = self._accounts.crossed & self._roster.entries.keys()
        if crossed:
            # After a crash the CLI, which counts nothing, has to come to the same verdict from the ledger.
            self._accounts.commit(durable=False)
        return crossed

    def _pass_judgement(self, vm_ids: Collection[int]) -> bool:
        """Judge these VMs. Whether blocks changed."""
        try:
            changed = self._judge.judge(self._roster, self._tally.usage, vm_ids, self._now.moment)
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
            changes = self._reconciler.reconcile(self._roster, self._now.moment, self._present())
        except LedgerError as error:
            self._accounts.failed(error)
            return []
        self._log_news()
        problems = [*self._reconciler.problems, *self._metering.problems, *self._protected.problems]
        self._complaints.obstacles(list(dict.fromkeys(problems)), self._now.tick.elapsed)
        return changes

    def _log_news(self) -> None:
        for level, text in self._judge.news.take():
            log.log(level, "%s", text)

    def _present(self) -> Present:
        arriving = [
            (Port(*vif.life, vif.interface, facts.mac), facts.name or "") for vif, facts in self._census.arriving
        ]
        return Present(self._census.bound, arriving, self._census.waiting)

    def _ports(self) -> tuple[Port, ...]:
        return self._reconciler.ports(self._roster, self._present())

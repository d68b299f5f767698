"""The accounts: bytes are read, credited to VMs, divided into periods, and committed to the ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from xenbw import quota
from xenbw.accounting import Tally
from xenbw.daemon.now import Now
from xenbw.errors import MeterError
from xenbw.judge.roster import Roster
from xenbw.ledger import rescue, usagelog
from xenbw.ledger.file import flush
from xenbw.ledger.ledger import Alive, CorruptLedgerError, Ledger, LedgerError
from xenbw.meters.metering import Metering
from xenbw.model import Count
from xenbw.nft.port import Port
from xenbw.tell.complaints import Complaints
from xenbw.tell.journal import about

log = logging.getLogger(__name__)

# How often counters are restarted in one count, if other programs go on changing the rules.
_TRIES = 4


class Accounts:
    """The accounts of all VMs.

    crossed: ids of VMs to be judged: their usage may have crossed a limit, or a period began.
    alive: when they were last committed; None: never.
    """

    def __init__(
        self,
        ledger: Ledger,
        tally: Tally,
        metering: Metering,
        roster: Roster,
        now: Now,
        complaints: Complaints,
        boot_id: str,
    ) -> None:
        self._ledger, self._tally, self._metering, self._roster = ledger, tally, metering, roster
        self._now, self._complaints, self._boot_id = now, complaints, boot_id
        self._ceilings: dict[int, tuple[Count, float]] = {}
        self.crossed: set[int] = set()
        self.alive = ledger.alive()

    def failed(self, error: LedgerError) -> None:
        """Go on without the ledger for now. If the ledger is damaged, the error is raised: only the next start can
        replace it."""
        if isinstance(error, CorruptLedgerError):
            rescue.mark(Path(self._ledger.path))
            raise error
        self._complaints.of("ledger", str(error))

    def attempt(self, work: Callable[[], None]) -> None:
        """Do work that may fail for the ledger's sake, and go on without it then."""
        try:
            work()
        except LedgerError as error:
            self.failed(error)

    def meter_failed(self, error: MeterError | None) -> None:
        """Report that the meter cannot be read, or works again (None)."""
        self._complaints.of(f"meter {self._metering.meter.name}", str(error) if error else None)

    def count(self, ports: Collection[Port] | None) -> None:
        """Read all counters and credit the traffic. ports: every vif, to repair the counters of them as well, and their
        seals; None leaves both as they are."""
        problem: MeterError | None = None
        for _ in range(_TRIES):
            problem = (self._restart(ports) if ports is not None else None) or self._credit()
            # Our counters may begin only after the kernel's bridged what passed them by. Those of other meters begin
            # nothing, so their seals do not wait for a meter that cannot be read.
            if ports is None or (problem is not None and self._metering.meter.own):
                break
            try:
                again = self._metering.begin(ports)
            except MeterError as error:
                problem = error
                break
            if not again:
                break
            self._now.look()
        self.meter_failed(problem)

    def _restart(self, ports: Collection[Port]) -> MeterError | None:
        """Restart counters that traffic did not reach; why that did not work."""
        moment = self._now.moment
        try:
            grown = self._metering.restart(ports, moment.at, self._roster.period_of(moment.trusted))
        except MeterError as error:
            return error
        self.crossed.update(filter(self._may_have_crossed, grown))
        return None

    def _credit(self) -> MeterError | None:
        """Read and credit; why that did not work."""
        moment = self._now.moment
        try:
            grown = self._metering.count(moment.at, self._roster.period_of(moment.trusted))
        except MeterError as error:
            return error
        self.crossed.update(filter(self._may_have_crossed, grown))
        if self._metering.bridged:
            self._tell_gap(self._metering.bridged)
        return None

    def glance(self, vm_ids: Collection[int]) -> bool:
        """Read, credit and commit the traffic of these VMs alone. Whether that worked."""
        moment = self._now.moment
        try:
            grown = self._metering.glance(vm_ids, moment.at, self._roster.period_of(moment.trusted))
        except MeterError:
            return False  # a round reports it
        if grown is None:
            return False
        self.crossed.update(filter(self._may_have_crossed, grown))
        return self.commit(durable=False)

    def _tell_gap(self, vifs: int) -> None:
        # What the kernel's counters told is written before ours begin anew, or a crash counts both.
        self.commit()
        text = f"the kernel's counters bridged a gap in ours on {vifs} interfaces, which somebody flushed or renamed"
        log.warning("%s", text, extra=about("meter-gap"))
        try:
            self._ledger.record(self._now.moment.at, "meter-gap", text)
        except LedgerError as error:
            self.failed(error)

    def _may_have_crossed(self, vm_id: int) -> bool:
        if vm_id not in self._ceilings:
            return True
        count, ceiling = self._ceilings[vm_id]
        used = self._roster.entries[vm_id].used(self._tally.usage[vm_id])
        return quota.used_bytes(count, used) >= ceiling

    def judged(self, vm_ids: Iterable[int]) -> None:
        """These VMs were judged: note up to what usage their verdicts hold."""
        for vm_id in vm_ids:
            entry = self._roster.entries[vm_id]
            bound = quota.ceiling(entry.allowance, entry.vm.state, entry.vm.threshold or 0)
            self._ceilings[vm_id] = (entry.allowance.count, bound)
            self.crossed.discard(vm_id)

    def roll(self) -> bool:
        """Open a new period for every VM whose period ended; these VMs are to be judged. Whether there was one. Raises
        LedgerError."""
        moment = self._now.moment
        if not any(moment.at >= entry.period.end for entry in self._roster.entries.values()):
            return False
        self.commit()
        self._roster.roll(moment)
        rolled = [id_ for id_, e in self._roster.entries.items() if not self._tally.stands_in(id_, e.period.start)]
        for vm_id in rolled:
            self._tally.open_period(vm_id, self._roster.entries[vm_id].period.start)
        self.crossed.update(rolled)
        return bool(rolled)

    def settle(self, vm_ids: Collection[int]) -> bool:
        """Credit and commit the last bytes of these VMs' ended bindings, and delete their counters. Whether that
        worked."""
        moment = self._now.moment
        try:
            self._metering.settle(moment.at, self._roster.period_of(moment.trusted), vm_ids)
        except MeterError as error:
            self.meter_failed(error)
            return False
        if not self.commit():
            return False
        try:
            self._metering.release()
        except MeterError as error:
            self.meter_failed(error)
        return True

    def open_periods(self, refiled: Collection[int]) -> None:
        """Make the tally go on from the ledger's sums of each VM's period. If the tally is in that period already, its
        own sums are newer and stay, except for VMs in refiled."""
        for vm_id, entry in self._roster.entries.items():
            start = entry.period.start
            if vm_id in refiled or not self._tally.stands_in(vm_id, start):
                self._tally.open_period(vm_id, start, usagelog.of_period(self._ledger, vm_id, start))

    def commit(self, *, durable: bool = True) -> bool:
        """Write all uncommitted bytes to the ledger; durable: and wait until the disk has them. Whether that worked; if
        not, they are kept and written the next time."""
        alive = Alive(self._now.moment.at, self._now.tick.elapsed, self._boot_id)
        try:
            self._metering.aliases.keep(alive.at)
            usagelog.commit(self._ledger, self._tally.pending(), alive)
        except LedgerError as error:
            self.failed(error)
            return False
        self._tally.settled()
        self.alive = alive
        if not durable:
            return True
        try:
            flush(self._ledger.path)
        except OSError as error:
            self._complaints.of("ledger", f"{self._ledger.path}: {error.strerror}")
        else:
            self._complaints.of("ledger", None)
        return True

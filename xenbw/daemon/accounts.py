"""The accounts: bytes are read, credited to VMs, divided into periods, and committed to the ledger."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from xenbw import quota
from xenbw.accounting import Tally
from xenbw.daemon.now import Now
from xenbw.errors import MeterError
from xenbw.judge.roster import Roster
from xenbw.ledger import rescue, usagelog
from xenbw.ledger.ledger import Alive, CorruptLedgerError, Ledger, LedgerError
from xenbw.meters.metering import Metering
from xenbw.model import Count
from xenbw.nft.chains import Port
from xenbw.tell.complaints import Complaints

log = logging.getLogger(__name__)


class Accounts:
    """The accounts of all VMs.

    crossed: ids of VMs whose usage may have crossed a limit since they were last judged. alive: when the accounts were
    last committed; None: never.
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

    def meter_failed(self, error: MeterError | None) -> None:
        """Report that the meter cannot be read, or works again (None)."""
        self._complaints.of(f"meter {self._metering.meter.name}", str(error) if error else None)

    def count(self, ports: Collection[Port] | None) -> None:
        """Repair counters, read all of them, and credit the bytes. ports: every vif, or None to repair nothing."""
        try:
            if ports is not None:
                self._metering.restart(ports)
            self._credit()
            if ports is not None and self._metering.begin(ports):
                self._now.look()
                self._credit()
            self.meter_failed(None)
        except MeterError as error:
            self.meter_failed(error)
        except LedgerError as error:
            self.failed(error)

    def _credit(self) -> None:
        moment = self._now.moment
        grown = self._metering.count(moment.at, self._roster.period_of(moment.trusted))
        self.crossed.update(filter(self._may_have_crossed, grown))
        if self._metering.bridged:
            # Bytes from the kernel's counters are committed before ours begin again, or a crash counts them twice.
            self.commit()
            text = (
                f"the kernel's counters bridged a gap in ours on {self._metering.bridged} interfaces,"
                " which were flushed or renamed"
            )
            log.warning("%s", text)
            self._ledger.record(moment.at, "meter-gap", text)

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
            self._ceilings[vm_id] = (entry.allowance.count, quota.ceiling(entry.allowance, entry.vm.state))
            self.crossed.discard(vm_id)

    def roll(self) -> list[int]:
        """Open a new period for every VM whose period ended; returns these VMs' ids. Raises LedgerError."""
        moment = self._now.moment
        if not any(moment.at >= entry.period.end for entry in self._roster.entries.values()):
            return []
        self.commit()
        self._roster.roll(moment)
        rolled = [id_ for id_, e in self._roster.entries.items() if not self._tally.stands_in(id_, e.period.start)]
        for vm_id in rolled:
            self._tally.open_period(vm_id, self._roster.entries[vm_id].period.start)
        return rolled

    def settle(self, vm_ids: Collection[int]) -> bool:
        """Credit and commit the last bytes of these VMs' ended bindings, and delete their counters. Whether that
        worked."""
        moment = self._now.moment
        try:
            self._metering.settle(moment.at, self._roster.period_of(moment.trusted), vm_ids)
        except MeterError as error:
            self.meter_failed(error)
            return False
        if not self.commit(heirs=True):
            return False
        self._metering.release()
        return True

    def open_periods(self, refiled: Collection[int]) -> None:
        """Make the tally go on from the ledger's sums of each VM's period. If the tally is in that period already, its
        own sums are newer and stay, except for VMs in refiled."""
        for vm_id, entry in self._roster.entries.items():
            start = entry.period.start
            if vm_id in refiled or not self._tally.stands_in(vm_id, start):
                self._tally.open_period(vm_id, start, usagelog.of_period(self._ledger, vm_id, start))

    def commit(self, *, heirs: bool = False, durable: bool = True) -> bool:
        """Write all uncommitted bytes to the ledger; durable: and wait until the disk has them. Whether that worked; if
        not, they are kept and written the next time."""
        alive = Alive(self._now.moment.at, self._now.tick.elapsed, self._boot_id)
        try:
            usagelog.commit(self._ledger, self._tally.pending(), alive, heirs=heirs)
        except LedgerError as error:
            self.failed(error)
            return False
        self._tally.settled()
        self.alive = alive
        if not durable:
            return True
        try:
            self._ledger.sync()
        except OSError as error:
            self._complaints.of("ledger", f"{self._ledger.path}: {error.strerror}")
        else:
            self._complaints.of("ledger", None)
        return True

"""The host's own troubles: found each ten seconds, and told once when they begin and once when they are over."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta

from xenbw.book.sync import Sync
from xenbw.clock import Trust
from xenbw.config import Settings
from xenbw.daemon.housekeeping import Every
from xenbw.daemon.now import Now
from xenbw.enforce.reconcile import Reconciler
from xenbw.judge import trouble
from xenbw.judge.trouble import Known, Present, Step
from xenbw.judge.verdicts import Judge
from xenbw.ledger import alarms
from xenbw.ledger.ledger import Ledger
from xenbw.meters.metering import Metering
from xenbw.tell import announcement
from xenbw.tell.alarm import Trouble
from xenbw.tell.complaints import Complaints
from xenbw.tell.journal import NOTICE, about
from xenbw.units import format_duration, format_size

log = logging.getLogger(__name__)

_LOOK = 10.0
# Seconds for which a daemon that was restarted has to run, for the trouble with the one before to be over.
_STEADY = 600.0
# How much more than the least must be free on the disk for it to be no longer short.
_RELIEF = 1.1
_KEY = 60  # the longest text that is a key itself


class Troubles:
    """sync: the book's thread, if there is one. ended: how the last run of the daemon ended, if not as it should."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        metering: Metering,
        judge: Judge,
        reconciler: Reconciler,
        now: Now,
        complaints: Complaints,
    ) -> None:
        self.settings, self._ledger, self._metering = settings, ledger, metering
        self._judge, self._reconciler, self._now, self._complaints = judge, reconciler, now, complaints
        self.sync: Callable[[], Sync | None] = lambda: None
        self.ended: str | None = None
        self._every, self._began_at = Every(_LOOK), now.tick.elapsed
        self._doubted_at: float | None = None
        began = now.tick.elapsed
        told = alarms.told(ledger, alarms.TROUBLES)
        self._known = {key: Known(str(facts.get("text")), began, began, told=True) for key, facts in told.items()}

    def look(self) -> None:
        """Tell of troubles that began or are over. Raises LedgerError; what could not be told is told later."""
        elapsed = self._now.tick.elapsed
        if not self._every.due(elapsed):
            return
        self._measure_disk()
        found = trouble.step(self._known, dict(self._present(elapsed)), elapsed)
        if found.began or found.over:
            self._tell(found)
        self._known = found.known

    def _tell(self, found: Step) -> None:
        texts = [(key, found.known[key].text, announcement.trouble) for key in found.began]
        texts += [(key, self._known[key].text, announcement.trouble_over) for key in found.over]
        at, host, zone = self._now.moment.at, self.settings.host_name, self.settings.period.timezone
        told = [announce(Trouble(host, key, text, at, zone)) for key, text, announce in texts]
        with self._ledger.transaction():
            for one in told:
                self._judge.announce(one, None, at)
            still = {key: {"text": one.text} for key, one in found.known.items() if one.told}
            alarms.keep(self._ledger, alarms.TROUBLES, still)
        for one in told:
            log.log(NOTICE, "%s", one.text, extra=about(one.kind))

    def _present(self, elapsed: float) -> Iterator[tuple[str, Present]]:
        if self.ended is not None and elapsed - self._began_at < _STEADY:
            yield "restart", Present(self.ended, 0.0)
        if self._metering.reason:
            yield "meter", Present(f"meter: {self._metering.meter.name}, since {self._metering.reason}")
        if self._in_doubt(elapsed):
            yield "clock", Present("the clock is doubted: it is set again and again, and is not synchronised")
        for key, text in self._complaints.present.items():
            if key not in self._reconciler.unfiltered:
                yield _key(key), Present(text)
        yield from self._of_book()

    def _of_book(self) -> Iterator[tuple[str, Present]]:
        sync = self.sync()
        if sync is None:
            return
        behind = sync.behind()
        if behind >= timedelta(seconds=self.settings.alert.book):
            why = sync.problem or f"{sync.backlog:,} records to go"
            yield "book", Present(f"the book is behind for {format_duration(behind.total_seconds())}: {why}")
        for fault in sync.faults:
            yield _key(fault), Present(fault)

    def _in_doubt(self, elapsed: float) -> bool:
        """Whether the clock is doubted for longer than it takes to be trusted while nobody sets it."""
        if self._now.trust is not Trust.DOUBTED:
            self._doubted_at = None
            return False
        self._doubted_at = elapsed if self._doubted_at is None else self._doubted_at
        return elapsed - self._doubted_at > self._now.wait

    def _measure_disk(self) -> None:
        least, folder = self.settings.alert.disk, self.settings.ledger.path.parent
        try:
            free = shutil.disk_usage(folder).free
        except OSError:
            return  # the ledger itself tells of it
        is_short = "disk" in self._complaints.present
        if free >= least * (_RELIEF if is_short else 1.0):
            self._complaints.of("disk", None)
        elif not is_short:
            self._complaints.of("disk", f"{folder}: {format_size(free)} free, less than [alert] disk; free some space")


def _key(text: str) -> str:
    """A key that is no longer than needed, whatever a guest's name in it is like."""
    if len(text) <= _KEY and text.isascii():
        return text
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]

"""The daemon's metrics: a copy of its numbers is taken in the loop; a thread makes the text of them and writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xenbw.accounting import Tally
from xenbw.config import DEFAULT_METRICS
from xenbw.daemon.now import Now
from xenbw.daemon.status import Status
from xenbw.judge.roster import Roster
from xenbw.ledger import outbox, unmetered
from xenbw.ledger.ledger import Ledger
from xenbw.report import metrics
from xenbw.report.metrics import Sample, VifSample
from xenbw.rundir.control import Answer
from xenbw.tell.complaints import Complaints
from xenbw.tell.textfile import Textfile
from xenbw.vifs.census import Census


class Metrics:
    """beside: what the threads beside the loop add to the daemon's state, as in the control socket's answer."""

    def __init__(
        self,
        ledger: Ledger,
        tally: Tally,
        census: Census,
        roster: Roster,
        now: Now,
        complaints: Complaints,
        boot_id: str,
        status: Callable[[], Status],
    ) -> None:
        self._ledger, self._tally, self._census, self._roster = ledger, tally, census, roster
        self._now, self._complaints, self._boot_id, self._status = now, complaints, boot_id, status
        self._file = Textfile()
        self.beside: Callable[[Answer], Answer] = lambda answer: answer

    def write(self, path: Path | None) -> None:
        """Have the file written, or removed if it is to be written no more, and report why the last try failed. Raises
        LedgerError."""
        if path is None or (path == DEFAULT_METRICS and not path.parent.is_dir()):
            self._file.withdraw()
            self._complaints.of("metrics", self._file.problem)
            return
        self._complaints.of("metrics", self._file.problem)
        sample = self._sample()
        self._file.offer(path, lambda: metrics.text(sample))

    def _sample(self) -> Sample:
        tracked = self._tally.tracked
        vifs = [
            VifSample(vif.vm_id, vif.domid, vif.devid, vif.kind, tracked[vif.id].counted)
            for vif in self._census.bound
            if vif.id in tracked
        ]
        return Sample(
            self._now.moment.at,
            dict(self._roster.entries),
            dict(self._tally.usage),
            vifs,
            unmetered.known(self._ledger, self._boot_id),
            self.beside(self._status().document()),
            {channel.value: found.count for channel, found in outbox.waiting_by_channel(self._ledger).items()},
        )

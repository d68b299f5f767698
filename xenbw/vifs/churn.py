"""Lines that would come again and again: the log has a line now and then for VMs that start all the time, and for a
xenstored that gives no answer."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta

from xenbw.ledger import starts
from xenbw.ledger.ledger import Ledger
from xenbw.tell.journal import NOTICE, about

log = logging.getLogger(__name__)

WINDOW = timedelta(minutes=10)
# More starts in that time are told by one line, and after as many lines on single starts no more are logged.
OFTEN = 10


class Refrain:
    """Errors that come with each question to a xenstored that is slow or gone: each is logged once in ten minutes."""

    def __init__(self) -> None:
        self._told: dict[str, datetime] = {}

    def tell(self, text: str, at: datetime) -> None:
        """Log an error, unless the last ten minutes of the log have it."""
        # The clock may be set back.
        self._told = {told: since for told, since in self._told.items() if timedelta(0) <= at - since < WINDOW}
        if text not in self._told:
            self._told[text] = at
            log.warning("%s", text)


class Churn:
    """How often VMs started in the last ten minutes, by the daemon's clock."""

    def __init__(self, ledger: Ledger) -> None:
        # Bindings from before the daemon's start are not counted.
        self._ledger, self._newest = ledger, starts.newest(ledger)
        self._starts: dict[str, deque[tuple[datetime, int]]] = {}
        self._lines: dict[str, deque[datetime]] = {}
        self._told: dict[str, datetime] = {}

    def quiet(self, name: str, at: datetime) -> bool:
        """Whether the log has had enough lines on the VM's starts. If not, one more is counted."""
        lines = self._lines.setdefault(name, deque())
        while lines and lines[0] <= at - WINDOW:
            lines.popleft()
        if name in self._told or len(lines) >= OFTEN:
            return True
        lines.append(at)
        return False

    def look(self, at: datetime) -> None:
        """Count the starts since the last look, and log VMs that start too often. Called each minute, before bindings
        that ended can be folded. Raises LedgerError."""
        begun = starts.since(self._ledger, self._newest)
        self._newest = begun.newest
        for name, text in self._take(begun.by_name, at):
            log.log(NOTICE, "%s", text, extra=about("restarting", name))

    def _take(self, begun: Mapping[str, int], at: datetime) -> list[tuple[str, str]]:
        for name, times in begun.items():
            self._starts.setdefault(name, deque()).append((at, times))
        told = []
        for name, counted in list(self._starts.items()):
            while counted and counted[0][0] <= at - WINDOW:
                counted.popleft()
            text = self._digest(name, sum(times for _, times in counted), at)
            if text is not None:
                told.append((name, text))
            if not counted:
                del self._starts[name]
        self._lines = {name: lines for name, lines in self._lines.items() if lines and lines[-1] > at - WINDOW}
        return told

    def _digest(self, name: str, times: int, at: datetime) -> str | None:
        told_at = self._told.get(name)
        if times > OFTEN and (told_at is None or at - told_at >= WINDOW):
            self._told[name] = at
            return f"{name}: started {times} times in the last 10 minutes; logged every 10 minutes while that lasts"
        if times <= OFTEN and told_at is not None:
            del self._told[name]
            return f"{name}: started {times} times in the last 10 minutes; starts are logged one by one again"
        return None

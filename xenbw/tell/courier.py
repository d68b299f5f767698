"""The thread that sees to what waits in the outbox, so that no mail server ever holds up the daemon's loop."""

from __future__ import annotations

import threading

from xenbw.clock import Clock
from xenbw.config import Settings
from xenbw.ledger.ledger import LedgerError
from xenbw.tell import carriers
from xenbw.tell.bell import Bell
from xenbw.tell.delivery import PATIENT, Delivery, Pace


class Courier(threading.Thread):
    """Delivers by itself what goes by SMTP, and rings for the service that runs executables when one of those is due.

    `problem` says what keeps messages from being sent just now, or None.
    """

    def __init__(self, settings: Settings, clock: Clock, pace: Pace = PATIENT) -> None:
        super().__init__(name="courier", daemon=True)
        path = settings.ledger.path
        self._delivery = Delivery(path, clock, carriers.by_smtp(settings), pace)
        self._executables = Delivery(path, clock, carriers.by_executables(settings), pace)
        self._bell = Bell(settings.daemon.run_dir, clock)
        self._pace = pace
        self._news = threading.Event()
        self._ending = False
        self.problem: str | None = None

    def wake(self) -> None:
        """Something was queued: look now."""
        self._news.set()

    def stop(self, grace: float = 1.0) -> None:
        """End the thread. One that is just talking to a slow server is left behind after `grace` seconds; its message
        then counts as not sent."""
        self._ending = True
        self._delivery.stop()
        self._news.set()
        self.join(grace)

    def run(self) -> None:
        while not self._ending:
            self._news.clear()
            more = False
            try:
                more = self.look()
            except LedgerError as error:
                self.problem = str(error)
            if not (more or self._ending):
                self._news.wait(self._pace.look)

    def look(self) -> bool:
        """See to some of what is due now; whether there may be more. Raises LedgerError."""
        silence = self._bell.ring() if self._executables.is_due() else None
        more = self._delivery.look()
        self.problem = self._delivery.problem or silence
        return more

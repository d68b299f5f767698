"""The thread that delivers messages from the outbox, so that no mail server ever delays the daemon's loop."""

from __future__ import annotations

import threading
from contextlib import suppress

from xenbw.clock import Clock
from xenbw.config import Settings
from xenbw.ledger.ledger import LedgerError
from xenbw.tell import carriers, templates
from xenbw.tell.bell import Bell
from xenbw.tell.delivery import PATIENT, Delivery, Pace


class Courier(threading.Thread):
    """Delivers mails by SMTP itself, and rings the bell for xenbw-notify.service when any other message is due.

    `faults` are mistakes in the admin's templates. `problem` says why messages cannot be sent now, or is None.
    """

    def __init__(self, settings: Settings, clock: Clock, pace: Pace = PATIENT) -> None:
        super().__init__(name="courier", daemon=True)
        path = settings.ledger.path
        self._delivery = Delivery(path, clock, carriers.by_smtp(settings), pace)
        self._outside = Delivery(path, clock, carriers.by_service(settings), pace)
        # Mistakes in the admin's templates, each a sentence.
        self.faults = templates.read(settings.mail.templates, settings.period.timezone).problems
        self._bell = Bell(settings.daemon.run_dir, clock)
        self._pace = pace
        self._news = threading.Event()
        self._ending = False
        self.problem: str | None = None

    def wake(self) -> None:
        """Look at once, because a message was queued."""
        self._news.set()

    def stop(self, grace: float = 1.0) -> None:
        """End the thread. If it is talking to a slow server, give up waiting after `grace` seconds; its message then
        counts as not sent."""
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
                self._news.wait(self._delivery.wait or self._pace.look)
        # The next courier of this process would wait for the locks for ever.
        with suppress(LedgerError):
            self._delivery.finish()

    def look(self) -> bool:
        """Deliver some of the due messages. Returns whether more may be due. Raises LedgerError."""
        silence = self._bell.ring() if self._outside.is_due() else None
        more = self._delivery.look()
        self.problem = self._delivery.problem or silence
        return more

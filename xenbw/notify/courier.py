"""The thread that sends what waits in the outbox, so that no mail server ever holds up the daemon's loop."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from xenbw.clock import Clock
from xenbw.config import Settings
from xenbw.notify.mail import Mail, MailError
from xenbw.store import outbox
from xenbw.store.ledger import Ledger, LedgerError
from xenbw.store.outbox import Message


@dataclass(frozen=True)
class Pace:
    """How patient the courier is. look: seconds between looks at the outbox; first, longest: the pause after a first
    failure, doubled after each further one; keep: how long a message is tried at all. lock: seconds to wait for another
    process's transaction in the ledger."""

    look: float = 30.0
    first: timedelta = timedelta(minutes=1)
    longest: timedelta = timedelta(hours=1)
    keep: timedelta = timedelta(days=7)
    lock: float = 1.0

    def pause(self, tries: int) -> timedelta:
        """How long to wait after a failure that `tries` others went before."""
        return min(self.first * (1 << min(tries, 16)), self.longest)


PATIENT = Pace()


class Courier(threading.Thread):
    """Sends due messages, oldest first, each until it is accepted, refused for good, or too old.

    A message is marked as sent right after the server took it. A crash between the two repeats it, with the same
    Message-ID: SMTP offers no more.
    `problem` says what keeps messages from being sent just now, or None.
    """

    def __init__(self, settings: Settings, clock: Clock, pace: Pace = PATIENT) -> None:
        super().__init__(name="courier", daemon=True)
        self._ledger_path, self._clock, self._pace = settings.ledger.path, clock, pace
        self._mail = Mail(settings.mail, settings.host_name)
        self._news = threading.Event()
        self._ending = False
        self._accepted: dict[int, datetime] = {}  # taken by the server, not yet marked in the ledger
        self.problem: str | None = None

    def wake(self) -> None:
        """Something was queued: look now."""
        self._news.set()

    def stop(self, grace: float = 1.0) -> None:
        """End the thread. One that is just talking to a slow server is left behind after `grace` seconds; its message
        then counts as not sent."""
        self._ending = True
        self._news.set()
        self.join(grace)

    def run(self) -> None:
        while not self._ending:
            self._news.clear()
            try:
                self.look()
            except LedgerError as error:
                self.problem = str(error)
            if not self._ending:
                self._news.wait(self._pace.look)

    def look(self) -> None:
        """Send what is due now. Raises LedgerError; what the server took meanwhile is remembered and marked later."""
        # Opened for each look: the daemon may have set a damaged ledger aside and begun another.
        ledger = Ledger.open(self._ledger_path, patience=self._pace.lock)
        try:
            self._mark(ledger)
            now = self._clock.tick().wall
            self.problem = None
            for message in outbox.due(ledger, now, now + self._pace.longest):
                if self._ending:
                    return
                self._deliver(ledger, message)
        finally:
            ledger.close()

    def _mark(self, ledger: Ledger) -> None:
        for message_id, at in list(self._accepted.items()):
            outbox.sent(ledger, message_id, at)
            del self._accepted[message_id]

    def _deliver(self, ledger: Ledger, message: Message) -> None:
        written = message.created_at
        try:
            refused = self._mail.send(message.subject, message.body, f"{message.id}.{written:%Y%m%d%H%M%S}", written)
        except MailError as error:
            self._fail(ledger, message, error)
            return
        now = self._clock.tick().wall
        self._accepted[message.id] = now
        self._mark(ledger)
        for recipient, words in refused.items():
            ledger.record(now, "mail-refused", f"mail '{message.subject}' to {recipient} was refused: {words}")

    def _fail(self, ledger: Ledger, message: Message, error: MailError) -> None:
        self.problem = str(error)
        now = self._clock.tick().wall
        if not error.permanent and now - message.created_at < self._pace.keep:
            outbox.postpone(ledger, message.id, now + self._pace.pause(message.tries))
            return
        with ledger.transaction():
            outbox.drop(ledger, message.id)
            ledger.record(now, "mail-failed", f"mail '{message.subject}' was given up: {error.message}")

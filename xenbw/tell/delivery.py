"""Deliver messages from the outbox: by which carrier, for how long to retry, and how each one ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from xenbw.clock import Clock
from xenbw.ledger import outbox
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.ledger.outbox import Message, Queue
from xenbw.tell.carrier import Carrier, DeliveryError


@dataclass(frozen=True)
class Pace:
    """The times of a delivery. look: seconds between looks at the outbox. first: the pause after a first failure; it
    doubles with each further failure, up to longest. keep: how long a message is tried at all. lock: seconds to wait
    for another process's transaction in the ledger."""

    look: float = 30.0
    first: timedelta = timedelta(minutes=1)
    longest: timedelta = timedelta(hours=1)
    keep: timedelta = timedelta(days=7)
    lock: float = 1.0

    def pause(self, tries: int) -> timedelta:
        """How long to wait after a failure that follows `tries` earlier ones."""
        return min(self.first * (1 << min(tries, 16)), self.longest)


PATIENT = Pace()


class Delivery:
    """Delivers due messages of some queues, oldest first, each until it is accepted, refused for good, or too old.

    A message is marked as sent right after its carrier accepted it. After a crash between the two it is sent again
    with the same id: SMTP and programs allow nothing better. `problem` says why messages cannot be delivered at the
    moment, or is None.
    """

    def __init__(self, ledger: Path, clock: Clock, carriers: Mapping[Queue, Carrier], pace: Pace = PATIENT) -> None:
        self._path, self._clock, self._carriers, self._pace = ledger, clock, carriers, pace
        self._ending = False
        self._turns = ExitStack()  # the locks that this process holds
        self._accepted: dict[int, datetime] = {}  # accepted by the carrier, not yet marked in the ledger
        self.problem: str | None = None

    @property
    def unmarked(self) -> bool:
        """Whether a delivered message is not yet marked in the ledger; the next look begins with that."""
        return bool(self._accepted)

    def stop(self) -> None:
        """Start no further message."""
        self._ending = True

    def is_due(self) -> bool:
        """Whether a message is due now. Raises LedgerError."""
        if not self._carriers:
            return False
        with closing(Ledger.open(self._path, patience=self._pace.lock)) as ledger:
            return bool(self._due(ledger))

    def look(self) -> bool:
        """Deliver some of the due messages. Returns whether more may be due. Raises LedgerError; messages that were
        accepted before the error are remembered, and marked at the next look."""
        # Open the ledger for each look: the daemon may have replaced a damaged one.
        with closing(Ledger.open(self._path, patience=self._pace.lock)) as ledger, self._turn():
            self._mark(ledger)
            self._turns.close()
            self.problem = None
            if not self._due(ledger):
                return False
            self._take_turn()
            # Look again: the process that held the lock has delivered some of them.
            messages, unreachable = self._due(ledger), dict[Queue, DeliveryError]()
            for message in messages:
                if self._ending:
                    return False
                error = unreachable.get(message.queue) or self._deliver(ledger, message)
                if error is not None:
                    self._fail(ledger, message, error, tried=message.queue not in unreachable)
                    if error.unreachable:
                        unreachable[message.queue] = error
            return bool(messages)

    def _due(self, ledger: Ledger) -> list[Message]:
        now = self._clock.tick().wall
        return outbox.due(ledger, now, now + self._pace.longest, self._carriers.keys())

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Release the locks after the look, unless a delivered message is not marked yet: another process would deliver
        it again."""
        try:
            yield
        finally:
            if not self._accepted:
                self._turns.close()

    def _take_turn(self) -> None:
        """Wait until no other process delivers from these queues: daemon and service may briefly have different
        configurations, and an admin may start the service by hand. Raises LedgerError."""
        for name in sorted({queue.channel.value for queue in self._carriers}):
            path = self._path.with_name(f"{self._path.name}.{name}.lock")
            try:
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise LedgerError(f"{path}: {error.strerror}", "is the disk full or mounted read-only?") from None
            self._turns.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)

    def _mark(self, ledger: Ledger) -> None:
        for message_id, at in list(self._accepted.items()):
            outbox.sent(ledger, message_id, at)
            del self._accepted[message_id]

    def _deliver(self, ledger: Ledger, message: Message) -> DeliveryError | None:
        """Why the message was not accepted, or None."""
        written, carrier = message.created_at, self._carriers[message.queue]
        try:
            refused = carrier.send(message.subject, message.body, f"{message.id}.{written:%Y%m%d%H%M%S}", written)
        except DeliveryError as error:
            return error
        now = self._clock.tick().wall
        self._accepted[message.id] = now
        self._mark(ledger)
        for recipient, words in refused.items():
            ledger.record(now, "mail-refused", f"mail '{message.subject}' to {recipient} was refused: {words}")
        return None

    def _fail(self, ledger: Ledger, message: Message, error: DeliveryError, *, tried: bool) -> None:
        """tried: whether the error is this message's own, and not that of an earlier one in its queue."""
        self.problem = str(error)
        now = self._clock.tick().wall
        until = now + self._pace.pause(message.tries)
        with ledger.transaction():
            if error.permanent or now - message.created_at >= self._pace.keep:
                channel = message.channel.value
                outbox.drop(ledger, message.id)
                ledger.record(now, f"{channel}-failed", f"{channel} '{message.subject}' was given up: {error.message}")
            elif tried:
                outbox.postpone(ledger, message.id, until, str(error))
            if tried and error.unreachable:
                outbox.defer(ledger, message.queue, until)

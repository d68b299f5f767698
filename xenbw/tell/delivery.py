"""Deliver messages from the outbox: by which carrier, for how long to retry, and how each one ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from xenbw.clock import Clock
from xenbw.ledger import outbox
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.ledger.outbox import Channel, Message, Queue
from xenbw.tell import digest
from xenbw.tell.carrier import DeliveryError
from xenbw.tell.carriers import Routes
from xenbw.tell.gather import FEW, LONGEST, URGENT, Parcel, gather


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

_ADMINS = Queue(Channel.MAIL)
# What is sent in quiet hours too; "": the unknown kinds of an earlier version.
_AT_ANY_HOUR = (*URGENT, "")
# Messages that are read at once; of the admin's mails more than fit into one digest.
_SOME, _MAILS = 20, 2000
# Copies that wait for a recipient who is refused for now: each is a mail of its own, tried again and again.
_COPIES = 100
# Unexpected errors that may be over at the next try: no memory, file or thread is left, or Python is being upgraded.
_OF_THE_HOST = (ImportError, MemoryError, OSError, RuntimeError)


class _Copy(NamedTuple):
    """A mail for some of its recipients. message: (when it was written, subject, body). to: their addresses, with
    spaces between them. kind: of its announcement."""

    message: tuple[datetime, str, str]
    to: str
    kind: str


class Delivery:
    """Delivers due messages of some queues, oldest first, each until it is accepted, refused for good, or too old. Many
    mails that are due together go as one (gather.py).

    A message is marked as sent right after its carrier accepted it, and all messages of one mail in one transaction.
    After a crash between the two it is sent again with the same id: SMTP and programs allow nothing better. Which
    messages go as one mail is written down before it is sent, so that a repeat is the same mail.

    `problem` says why messages cannot be delivered at the moment, or is None. wait: seconds until mails are due that
    wait for more of them; 0: none do.
    """

    def __init__(self, ledger: Path, clock: Clock, routes: Routes, pace: Pace = PATIENT) -> None:
        self._path, self._clock, self._routes, self._pace = ledger, clock, routes, pace
        self._ending = False
        self._turns = ExitStack()  # the locks that this process holds
        # Not yet in the ledger: what the carrier accepted, and copies for recipients that refused it for now.
        self._accepted: dict[int, datetime] = {}
        self._copies: list[_Copy] = []
        self.problem: str | None = None
        self.wait = 0.0

    @property
    def unmarked(self) -> bool:
        """Whether a delivered message is not yet marked in the ledger; the next look begins with that."""
        return bool(self._accepted)

    def stop(self) -> None:
        """Start no further message."""
        self._ending = True

    def finish(self) -> None:
        """After the last look: mark what was delivered, and release the locks. Raises LedgerError; what could not be
        marked is delivered again."""
        try:
            if self._accepted:
                with closing(Ledger.open(self._path, patience=self._pace.lock)) as ledger:
                    self._mark(ledger)
        finally:
            self._turns.close()

    def is_due(self) -> bool:
        """Whether a message is due now, or waits for more of them. Raises LedgerError."""
        if not self._routes.carriers:
            return False
        with closing(Ledger.open(self._path, patience=self._pace.lock)) as ledger:
            return bool(self._due(ledger)) or self.wait > 0

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
            parcels, unreachable = self._due(ledger), dict[tuple[Channel, str], DeliveryError]()
            for parcel in parcels:
                if self._ending:
                    return False
                server = _server(parcel[0].queue)
                packed = parcel if server in unreachable else self._pack(ledger, parcel)
                error = unreachable.get(server) or self._deliver(ledger, packed)
                if error is not None:
                    self._fail(ledger, packed, error, tried=server not in unreachable)
                    if error.unreachable:
                        unreachable[server] = error
            return bool(parcels)

    def _due(self, ledger: Ledger) -> list[Parcel]:
        """Some of the due messages, those of each queue oldest first. Sets `wait`."""
        now, self.wait = self._clock.tick().wall, 0.0
        alone = [queue for queue in self._routes.carriers if queue.channel is not Channel.MAIL]
        if self._routes.tenant is not None:
            # A tenant's mails never go together: a VM may get another tenant meanwhile.
            alone += outbox.tenants(ledger)
        parcels: list[Parcel] = [(message,) for message in self._read(ledger, alone, now)]
        if _ADMINS in self._routes.carriers and (mails := self._read(ledger, [_ADMINS], now, _MAILS)):
            # What waited for the end of quiet hours goes as one mail.
            few = 1 if self._routes.is_quiet(_ADMINS, mails[0].created_at) else FEW
            gathered = gather(mails, outbox.sent_lately(ledger, _ADMINS, now - LONGEST, now), now, few)
            parcels += gathered.parcels
            self.wait = gathered.wait
        # All mails wait after one at which their server falls silent. So that the same one does not come first each
        # time, the queues of messages that failed come last.
        failed = {parcel[0].queue for parcel in parcels if parcel[0].tries}
        return sorted(parcels, key=lambda parcel: (parcel[0].queue in failed, parcel[0].id))

    def _read(self, ledger: Ledger, queues: Sequence[Queue], now: datetime, most: int = _SOME) -> list[Message]:
        """The due messages of these queues, mails in the admin's words."""
        horizon, hushed = now + self._pace.longest, [queue for queue in queues if self._routes.is_quiet(queue, now)]
        awake = [queue for queue in queues if queue not in hushed]
        found = outbox.due(ledger, now, horizon, awake, most=most) if awake else []
        found += outbox.due(ledger, now, horizon, hushed, kinds=_AT_ANY_HOUR, most=most) if hushed else []
        words = self._routes.templates.worded
        return [words(message) if message.channel is Channel.MAIL else message for message in found]

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
        for name in sorted({queue.channel.value for queue in self._routes.carriers}):
            path = self._path.with_name(f"{self._path.name}.{name}.lock")
            try:
                lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise LedgerError(f"{path}: {error.strerror}", "is the disk full or mounted read-only?") from None
            self._turns.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)

    def _mark(self, ledger: Ledger) -> None:
        if self._accepted:
            with ledger.transaction():
                outbox.sent(ledger, self._accepted.items())
                for copy in self._copies:
                    self._queue(ledger, copy)
            self._accepted.clear()
            self._copies.clear()

    def _queue(self, ledger: Ledger, copy: _Copy) -> None:
        queue, subject = Queue(Channel.MAIL, copy.to), copy.message[1]
        if outbox.are_waiting(ledger, queue, _COPIES):
            text = f"mail '{subject}' to {copy.to} was refused for now, and dropped, because too many wait"
            ledger.record(self._clock.tick().wall, "mail-refused", text)
        else:
            outbox.queue(ledger, *copy.message, *queue, kind=copy.kind)

    def _pack(self, ledger: Ledger, parcel: Parcel) -> Parcel:
        """The messages of this parcel that go as one mail, which is written down; the others wait for the next look."""
        if len(parcel) == 1 or parcel[0].letter is not None:
            return parcel
        packed = digest.fitting(parcel, self._routes.host)
        if len(packed) > 1:
            outbox.bundle(ledger, packed)
        return packed

    def _deliver(self, ledger: Ledger, parcel: Parcel) -> DeliveryError | None:
        """Why the parcel was not accepted, or None."""
        first, (subject, body, name) = parcel[0], self._words(parcel)
        try:
            refused = self._routes.carrier(first.queue).send(subject, body, name, first.created_at)
        except DeliveryError as error:
            return error
        except _OF_THE_HOST as error:
            return DeliveryError(_named(error))
        except Exception as error:  # noqa: BLE001 (a message for which we have a bug must not keep all others waiting)
            return DeliveryError(_named(error), "report it to the xenbw project", permanent=True)
        now = self._clock.tick().wall
        self._accepted.update((message.id, now) for message in parcel)
        # A server that does greylisting refuses each first mail to a recipient; the others do not get it again.
        if later := [recipient for recipient, refusal in refused.items() if not refusal.for_good]:
            self._copies.append(_Copy((first.created_at, subject, body), " ".join(later), first.kind))
        self._mark(ledger)
        for recipient, refusal in refused.items():
            if refusal.for_good:
                ledger.record(now, "mail-refused", f"mail '{subject}' to {recipient} was refused: {refusal.answer}")
        return None

    def _words(self, parcel: Parcel) -> tuple[str, str, str]:
        """(subject, body, id for the receiver) of a parcel."""
        first, host = parcel[0], self._routes.host
        if len(parcel) == 1 and first.letter is None:
            return first.subject, first.body, first.name
        # Not the id of its first message, which may have been sent alone before and refused.
        return digest.subject_of(parcel, host), digest.text_of(parcel, host), f"digest.{first.name}"

    def _fail(self, ledger: Ledger, parcel: Parcel, error: DeliveryError, *, tried: bool) -> None:
        """tried: whether the error is this parcel's own, and not that of an earlier one in its queue."""
        self.problem = str(error)
        now, first = self._clock.tick().wall, parcel[0]
        until = now + self._pace.pause(first.tries)
        with ledger.transaction():
            if error.permanent or now - max(message.created_at for message in parcel) >= self._pace.keep:
                channel, (subject, _, _) = first.channel.value, self._words(parcel)
                for message in parcel:
                    outbox.drop(ledger, message.id)
                ledger.record(now, f"{channel}-failed", f"{channel} '{subject}' was given up: {error.message}")
            elif tried:
                for message in parcel:
                    outbox.postpone(ledger, message.id, until, str(error))
            if tried and error.unreachable:
                mails = first.channel is Channel.MAIL
                outbox.defer(ledger, [_ADMINS, *outbox.tenants(ledger)] if mails else [first.queue], until)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _server(queue: Queue) -> tuple[Channel, str]:
    """The server or program to which a queue goes: all mails go to the same."""
    return queue.channel, "" if queue.channel is Channel.MAIL else queue.address

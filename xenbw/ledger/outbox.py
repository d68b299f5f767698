"""Messages that wait for delivery, kept in the ledger so that a restart neither loses nor repeats one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from xenbw.ledger.ledger import Ledger, to_text
from xenbw.ledger.rows import time_of
from xenbw.ledger.trouble import impossible

_AT_ONCE = 20

MOST = 10_000
"""So many messages wait in one queue at most."""
# Messages dropped at once from a full queue, so that a queue that stays full is told once for so many.
_DROPPED = 100
# The kind of the message that tells how many were dropped; one of a queue waits at any moment.
DROPPED = "messages-dropped"


class Channel(StrEnum):
    """How a message is delivered: to the recipients of [mail], to the program of [command], or to a [[webhook]]."""

    MAIL = "mail"
    COMMAND = "command"
    WEBHOOK = "webhook"


class Queue(NamedTuple):
    """The messages of a channel that go to one address. address: the url of a webhook, or the mail addresses of a VM's
    tenant with spaces between them; "" for the admin's mails and the command."""

    channel: Channel
    address: str = ""

    @property
    def stored(self) -> str:
        """How the ledger has it, in one column."""
        return f"{self.channel.value} {self.address}" if self.address else self.channel.value

    @property
    def shown(self) -> str:
        """The queue for a screen. The path of a url may be a secret."""
        if self.channel is not Channel.WEBHOOK:
            return self.stored
        server = "/".join(self.address.split("/")[:3])
        return f"{self.channel.value} {server}"


@dataclass(frozen=True)
class Message:
    """One message for the admin. body: text for a mail, a JSON object for a command or a webhook. tries: how often its
    delivery has failed. kind: of its announcement, "" if an earlier version queued it. facts: the announcement as JSON,
    of mails. letter: the id of the first of the messages with which it goes as one mail; None if it goes alone."""

    id: int
    created_at: datetime
    queue: Queue
    subject: str
    body: str
    tries: int
    kind: str = ""
    facts: str | None = None
    letter: int | None = None

    @property
    def channel(self) -> Channel:
        return self.queue.channel

    @property
    def name(self) -> str:
        """Its id for the receiver: the same whenever the message is repeated, and another one in a new ledger."""
        return f"{self.id}.{self.created_at:%Y%m%d%H%M%S}"


@dataclass(frozen=True)
class Waiting:
    """The messages that wait on a channel. failure: why the oldest message that failed did so the last time."""

    count: int = 0
    failure: str | None = None


def _queue(stored: str) -> Queue:
    channel, _, address = stored.partition(" ")
    try:
        return Queue(Channel(channel), address)
    except ValueError as error:
        raise impossible(error) from None


def queue(
    ledger: Ledger,
    at: datetime,
    subject: str,
    body: str,
    channel: Channel = Channel.MAIL,
    address: str = "",
    *,
    kind: str = "",
    facts: str | None = None,
) -> None:
    """Put a message in the outbox. Inside a transaction it is queued if and only if the transaction commits."""
    with ledger.transaction() as db:
        db.execute(
            "INSERT INTO outbox (created_at, next_at, channel, subject, body, kind, facts)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (to_text(at), to_text(at), Queue(channel, address).stored, subject, body, kind, facts),
        )


def due(
    ledger: Ledger,
    at: datetime,
    horizon: datetime,
    queues: Collection[Queue] | None = None,
    *,
    kinds: Collection[str] | None = None,
    most: int = _AT_ONCE,
) -> list[Message]:
    """Some of the messages in these queues, or in all, that are due now, oldest first; at most `most`.

    horizon: the longest possible pause from now; a message that would wait longer was queued before the clock was set
    back, and is due as well. kinds: only of these.
    """
    stored, wanted = [queue.stored for queue in queues or ()], list(kinds or ())
    chosen = "" if queues is None else f" AND channel IN ({', '.join('?' * len(stored))})"
    chosen += "" if kinds is None else f" AND kind IN ({', '.join('?' * len(wanted))})"
    rows = ledger.rows(
        "SELECT id, created_at, channel, subject, body, tries, kind, facts, letter FROM outbox"  # noqa: S608 (marks)
        f" WHERE sent_at IS NULL{chosen} AND NOT (next_at > ? AND next_at <= ?) ORDER BY id LIMIT ?",
        *stored,
        *wanted,
        to_text(at),
        to_text(horizon),
        most,
    )
    return [
        Message(
            id=row["id"],
            created_at=time_of(row["created_at"]),
            queue=_queue(row["channel"]),
            subject=row["subject"],
            body=row["body"],
            tries=row["tries"],
            kind=row["kind"],
            facts=row["facts"],
            letter=row["letter"],
        )
        for row in rows
    ]


def tenants(ledger: Ledger) -> list[Queue]:
    """The queues of mails to tenants in which messages wait."""
    rows = ledger.rows("SELECT DISTINCT channel FROM outbox WHERE sent_at IS NULL AND channel GLOB 'mail *'")
    return [_queue(row[0]) for row in rows]


def sent_lately(ledger: Ledger, queue: Queue, since: datetime, until: datetime) -> int:
    """How many messages of this queue were sent in that time; of the newest 100."""
    rows = ledger.rows(
        "SELECT count(*) FROM (SELECT sent_at FROM outbox WHERE channel = ? ORDER BY id DESC LIMIT 100)"
        " WHERE sent_at > ? AND sent_at <= ?",
        queue.stored,
        to_text(since),
        to_text(until),
    )
    return int(rows[0][0])


def bundle(ledger: Ledger, messages: Sequence[Message]) -> None:
    """These messages go as one mail from now on, also after a restart."""
    with ledger.transaction() as db:
        db.executemany("UPDATE outbox SET letter = ? WHERE id = ?", [(messages[0].id, each.id) for each in messages])


def sent(ledger: Ledger, delivered: Collection[tuple[int, datetime]]) -> None:
    """These messages, (id, time), were delivered."""
    with ledger.transaction() as db:
        db.executemany(
            "UPDATE outbox SET sent_at = ?, failure = NULL, facts = NULL WHERE id = ?",
            [(to_text(at), message_id) for message_id, at in delivered],
        )


def postpone(ledger: Ledger, message_id: int, until: datetime, failure: str) -> None:
    """The delivery of the message failed; it is due again at `until`."""
    with ledger.transaction() as db:
        db.execute(
            "UPDATE outbox SET tries = tries + 1, next_at = ?, failure = ? WHERE id = ?",
            (to_text(until), failure, message_id),
        )


def defer(ledger: Ledger, queues: Collection[Queue], until: datetime) -> None:
    """No message of these queues is due before `until`, though its delivery was not tried."""
    with ledger.transaction() as db:
        db.executemany(
            "UPDATE outbox SET next_at = ? WHERE sent_at IS NULL AND channel = ? AND next_at < ?",
            [(to_text(until), queue.stored, to_text(until)) for queue in queues],
        )


def are_waiting(ledger: Ledger, queue: Queue, count: int) -> bool:
    """Whether at least so many messages wait in this queue."""
    row = "SELECT 1 FROM outbox WHERE sent_at IS NULL AND channel = ? LIMIT 1 OFFSET ?"
    return bool(ledger.rows(row, queue.stored, count - 1))


def keep_bound(ledger: Ledger, queue: Queue, last: Collection[str], most: int = MOST) -> tuple[int, int]:
    """Drop messages from this queue if more than `most` wait in it. Returns how many were dropped now, and how many
    with those of which its receiver has not been told yet. The caller queues the message that tells so.

    The oldest go first; those of the kinds `last`, and of unknown kinds, last. Messages whose delivery began stay as
    long as others are left."""
    if not are_waiting(ledger, queue, most + 1):
        return 0, 0
    kinds = ["", *last]
    told = ledger.rows(
        "SELECT coalesce(sum(json_extract(facts, '$.dropped')), 0) FROM outbox"
        " WHERE sent_at IS NULL AND channel = ? AND kind = ? AND letter IS NULL",
        queue.stored,
        DROPPED,
    )
    with ledger.transaction() as db:
        db.execute(
            "DELETE FROM outbox WHERE sent_at IS NULL AND channel = ? AND kind = ? AND letter IS NULL",
            (queue.stored, DROPPED),
        )
        gone = db.execute(
            "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE sent_at IS NULL AND channel = ?"  # noqa: S608 (marks)
            f" ORDER BY letter IS NOT NULL, kind IN ({', '.join('?' * len(kinds))}), id LIMIT ?)",
            (queue.stored, *kinds, max(1, min(_DROPPED, most // 2))),
        ).rowcount
    return gone, int(told[0][0]) + gone


def drop(ledger: Ledger, message_id: int) -> None:
    """Give a message up. The caller records an event."""
    with ledger.transaction() as db:
        db.execute("DELETE FROM outbox WHERE id = ?", (message_id,))


def waiting(ledger: Ledger) -> int:
    """How many messages are not delivered yet."""
    return sum(found.count for found in waiting_by_channel(ledger).values())


def waiting_by_channel(ledger: Ledger) -> dict[Channel, Waiting]:
    """The messages that wait, for every channel."""
    rows = ledger.rows(
        "SELECT channel, count(*), (SELECT failure FROM outbox AS failed WHERE failed.channel = outbox.channel"
        " AND sent_at IS NULL AND failure IS NOT NULL ORDER BY id LIMIT 1)"
        " FROM outbox WHERE sent_at IS NULL GROUP BY channel ORDER BY min(id)"
    )
    found = {channel: Waiting() for channel in Channel}
    for stored, count, failure in rows:
        channel = _queue(stored).channel
        found[channel] = Waiting(found[channel].count + count, found[channel].failure or failure)
    return found

"""Messages that wait for delivery, kept in the ledger so that a restart neither loses nor repeats one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from xenbw.ledger.ledger import Ledger, to_text
from xenbw.ledger.rows import time_of
from xenbw.ledger.trouble import impossible

_AT_ONCE = 20


class Channel(StrEnum):
    """How a message is delivered: to the recipients of [mail], or to the program of [command]."""

    MAIL = "mail"
    COMMAND = "command"


@dataclass(frozen=True)
class Message:
    """One message for the admin. body: text for a mail, a JSON object for the command. tries: how often its delivery
    has failed."""

    id: int
    created_at: datetime
    channel: Channel
    subject: str
    body: str
    tries: int


@dataclass(frozen=True)
class Waiting:
    """The messages that wait on a channel. failure: why the oldest message that failed did so the last time."""

    count: int = 0
    failure: str | None = None


def _channel(name: str) -> Channel:
    try:
        return Channel(name)
    except ValueError as error:
        raise impossible(error) from None


def queue(ledger: Ledger, at: datetime, subject: str, body: str, channel: Channel = Channel.MAIL) -> None:
    """Put a message in the outbox. Inside a transaction it is queued if and only if the transaction commits."""
    with ledger.transaction() as db:
        db.execute(
            "INSERT INTO outbox (created_at, channel, subject, body, next_at) VALUES (?, ?, ?, ?, ?)",
            (to_text(at), channel.value, subject, body, to_text(at)),
        )


def due(
    ledger: Ledger, at: datetime, horizon: datetime, channels: Collection[Channel] = tuple(Channel)
) -> list[Message]:
    """Some of the messages that are due now, oldest first.

    horizon: the longest possible pause from now; a message that would wait longer was queued before the clock was set
    back, and is due as well.
    """
    marks = ", ".join("?" * len(channels))
    rows = ledger.rows(
        "SELECT id, created_at, channel, subject, body, tries FROM outbox"  # noqa: S608 (question marks)
        f" WHERE sent_at IS NULL AND channel IN ({marks})"
        f" AND NOT (next_at > ? AND next_at <= ?) ORDER BY id LIMIT {_AT_ONCE}",
        *(channel.value for channel in channels),
        to_text(at),
        to_text(horizon),
    )
    return [
        Message(
            id=row["id"],
            created_at=time_of(row["created_at"]),
            channel=_channel(row["channel"]),
            subject=row["subject"],
            body=row["body"],
            tries=row["tries"],
        )
        for row in rows
    ]


def sent(ledger: Ledger, message_id: int, at: datetime) -> None:
    """The message was delivered."""
    with ledger.transaction() as db:
        db.execute("UPDATE outbox SET sent_at = ?, failure = NULL WHERE id = ?", (to_text(at), message_id))


def postpone(ledger: Ledger, message_id: int, until: datetime, failure: str) -> None:
    """The delivery of the message failed; it is due again at `until`."""
    with ledger.transaction() as db:
        db.execute(
            "UPDATE outbox SET tries = tries + 1, next_at = ?, failure = ? WHERE id = ?",
            (to_text(until), failure, message_id),
        )


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
        " FROM outbox WHERE sent_at IS NULL GROUP BY channel"
    )
    found = {Channel(row[0]): Waiting(row[1], row[2]) for row in rows}
    return {channel: found.get(channel, Waiting()) for channel in Channel}

"""Messages waiting to be sent, kept in the ledger so that a restart neither loses nor repeats one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from xenbw.store.ledger import Ledger, to_text


@dataclass(frozen=True)
class Message:
    """One message for the admin; tries: how often sending it has failed."""

    id: int
    created_at: datetime
    subject: str
    body: str
    tries: int


def queue(ledger: Ledger, at: datetime, subject: str, body: str) -> None:
    """Put a message in the outbox; inside a transaction it is queued if and only if that commits."""
    with ledger.transaction() as db:
        db.execute(
            "INSERT INTO outbox (created_at, subject, body, next_at) VALUES (?, ?, ?, ?)",
            (to_text(at), subject, body, to_text(at)),
        )


def due(ledger: Ledger, at: datetime, horizon: datetime) -> list[Message]:
    """Messages to be sent now, oldest first.

    horizon: no pause reaches beyond it; a message that is to wait longer was queued by a clock since set back, and is
    due as well.
    """
    rows = ledger.rows(
        "SELECT id, created_at, subject, body, tries FROM outbox"
        " WHERE sent_at IS NULL AND NOT (next_at > ? AND next_at <= ?) ORDER BY id LIMIT 20",
        to_text(at),
        to_text(horizon),
    )
    return [
        Message(row["id"], datetime.fromisoformat(row["created_at"]), row["subject"], row["body"], row["tries"])
        for row in rows
    ]


def sent(ledger: Ledger, message_id: int, at: datetime) -> None:
    with ledger.transaction() as db:
        db.execute("UPDATE outbox SET sent_at = ? WHERE id = ?", (to_text(at), message_id))


def postpone(ledger: Ledger, message_id: int, until: datetime) -> None:
    with ledger.transaction() as db:
        db.execute("UPDATE outbox SET tries = tries + 1, next_at = ? WHERE id = ?", (to_text(until), message_id))


def drop(ledger: Ledger, message_id: int) -> None:
    """Give a message up; the caller says so in an event."""
    with ledger.transaction() as db:
        db.execute("DELETE FROM outbox WHERE id = ?", (message_id,))


def waiting(ledger: Ledger) -> int:
    """How many messages are not sent yet."""
    return int(ledger.rows("SELECT count(*) FROM outbox WHERE sent_at IS NULL")[0][0])

"""Events, as the screens read them. `Ledger.record` writes them."""

from __future__ import annotations

from datetime import datetime

from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import time_of, to_text


def newest(ledger: Ledger, limit: int) -> list[tuple[datetime, str, str]]:
    """The newest events, (time, kind, text), newest first."""
    rows = ledger.rows("SELECT at, kind, text FROM event ORDER BY id DESC LIMIT ?", limit)
    return [(time_of(row[0]), row[1], row[2]) for row in rows]


def of_vm(ledger: Ledger, vm_id: int, limit: int) -> list[tuple[datetime, str, str]]:
    """The VM's newest events, (time, kind, text), newest first."""
    rows = ledger.rows("SELECT at, kind, text FROM event WHERE vm_id = ? ORDER BY id DESC LIMIT ?", vm_id, limit)
    return [(time_of(row[0]), row[1], row[2]) for row in rows]


def of_kind(ledger: Ledger, kind: str, since: datetime) -> list[tuple[datetime, str]]:
    """(time, text) of the events of a kind from `since` on, oldest first."""
    rows = ledger.rows("SELECT at, text FROM event WHERE kind = ? AND at >= ? ORDER BY id", kind, to_text(since))
    return [(time_of(row[0]), row[1]) for row in rows]

"""A look for damage in the ledger's file."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from xenbw.ledger.ledger import Ledger
from xenbw.ledger.trouble import damaged


def check(ledger: Ledger, seconds: float, on_beat: Callable[[], None] = lambda: None) -> None:
    """Raise CorruptLedgerError if SQLite finds damage within so many seconds; then the look ends. on_beat: called
    often."""
    ledger.lend(lambda db: _check(db, seconds, ledger, on_beat))


def _check(db: sqlite3.Connection, seconds: float, ledger: Ledger, on_beat: Callable[[], None]) -> None:
    limit = time.monotonic() + seconds

    def is_over() -> bool:
        on_beat()
        return time.monotonic() > limit

    db.set_progress_handler(is_over, 10_000)
    try:
        answer = db.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "") != "SQLITE_INTERRUPT":
            raise
    else:
        if answer[0] != "ok":
            raise damaged(ledger.path)
    finally:
        db.set_progress_handler(None, 0)

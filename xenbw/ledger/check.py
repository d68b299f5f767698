"""A look for damage in the ledger's file."""

from __future__ import annotations

import sqlite3
import time

from xenbw.ledger.ledger import Ledger
from xenbw.ledger.trouble import damaged


def check(ledger: Ledger, seconds: float) -> None:
    """Raise CorruptLedgerError if SQLite finds damage within so many seconds; then the look ends."""
    ledger.lend(lambda db: _check(db, seconds, ledger))


def _check(db: sqlite3.Connection, seconds: float, ledger: Ledger) -> None:
    limit = time.monotonic() + seconds
    db.set_progress_handler(lambda: time.monotonic() > limit, 10_000)
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

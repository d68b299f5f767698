"""The room of the ledger's file on the disk: deleted rows leave free pages in it, which are given back."""

from __future__ import annotations

import shutil
import sqlite3

from xenbw.ledger.ledger import Ledger

# Pages of 4 KB that are moved and cut off at one call: some 20 ms.
_AT_ONCE = 1000
# Free pages that stay for the next rows: 4 MB, and a twentieth of the file.
_LEAST, _SHARE = 1000, 20
_INCREMENTAL = 2
# Bytes left for other programs that write meanwhile.
_SPARE = 16 * 1024**2


def give_back(ledger: Ledger) -> None:
    """Give some free pages back to the file system, if there are many. Other processes go on writing. Raises
    LedgerError."""

    def work(db: sqlite3.Connection) -> None:
        free, pages = _number(db, "freelist_count"), _number(db, "page_count")
        surplus = free - max(_LEAST, pages // _SHARE)
        if surplus > 0:
            # `execute` would stop after the first page: the pragma has a row without columns for each page.
            db.executescript(f"PRAGMA incremental_vacuum({min(surplus, _AT_ONCE)})")

    ledger.lend(work)


def let_shrink(ledger: Ledger) -> bool:
    """Write a ledger that an earlier version made anew, so that its free pages can be given back. False if its file
    system has no room for two more copies: free pages are then only used again. Raises LedgerError.

    Other processes cannot write meanwhile: some seconds for each 100 MB on a busy disk.
    """

    def work(db: sqlite3.Connection) -> None:
        db.execute(f"PRAGMA auto_vacuum = {_INCREMENTAL}")
        db.execute("VACUUM")

    if ledger.rows("PRAGMA auto_vacuum")[0][0] == _INCREMENTAL:
        return True
    if shutil.disk_usage(ledger.path.parent).free < 2 * ledger.path.stat().st_size + _SPARE:
        return False
    ledger.lend(work)
    return True


def _number(db: sqlite3.Connection, pragma: str) -> int:
    return int(db.execute(f"PRAGMA {pragma}").fetchone()[0])

"""The new ledger that takes a damaged one's place, with the VMs, blocks and usage that can still be read.

It is made beside the damaged one, and takes its place when it is whole: a process that is killed meanwhile leaves one
or the other, never an empty ledger, by which all VMs would begin again without allowances and usage.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from glob import escape
from pathlib import Path
from typing import TypeVar

from xenbw.ledger import bindings, schema, sound
from xenbw.ledger.ledger import Ledger, LedgerError, to_text
from xenbw.ledger.sieve import Sieve, reading_anything, shapes
from xenbw.ledger.sound import Shape

log = logging.getLogger(__name__)

# The tables that a new ledger needs. Bindings are found again; history stays in the file that is set aside.
_CARRIED = ("vm", "block", "usage", "elsewhere")
# Indexes have pages of their own: they can tell of rows that cannot be read.
_INDEXED = {
    "vm": "SELECT id, name FROM vm INDEXED BY vm_name WHERE retired_at IS NULL",
    "block": "SELECT vm_id FROM block INDEXED BY block_active WHERE lifted_at IS NULL",
}
# By this value of meta a VM's traffic counts in full for a day; all others are new in a new ledger.
_ALIASED = f"SELECT key, value FROM meta WHERE key = '{bindings.ALIASED}'"  # noqa: S608 (a name of this room)
# Steps of SQLite between two calls of on_beat.
_STEPS = 10_000

_LOGS = ("-wal", "-shm")
_MAKING, _READY, _ASIDE = "replacing", "replaced-", "damaged-"

_T = TypeVar("_T")


def replace(path: Path, now: datetime, complete: Callable[[Ledger, Sieve, str], _T], on_beat: Callable[[], None]) -> _T:
    """Replace the damaged ledger at this path. complete: called inside the new ledger's only transaction, with a
    sentence on what was carried over; returns what it returns. on_beat: called often. Raises LedgerError."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as old:
        # Hooks and commands wait with their writes, which would be lost.
        with contextlib.suppress(sqlite3.Error):
            old.execute("BEGIN IMMEDIATE")
        completed = _make(path, old, now, complete, on_beat)
        take_place(path)
    return completed


def _make(
    path: Path,
    old: sqlite3.Connection,
    now: datetime,
    complete: Callable[[Ledger, Sieve, str], _T],
    on_beat: Callable[[], None],
) -> _T:
    making, stamp = _beside(path, _MAKING), f"{now:%Y%m%dT%H%M%SZ}"
    aside = _beside(path, _ASIDE + stamp)
    _remove(making)
    with contextlib.closing(Ledger.open(making, create=True, patience=0.5)) as ledger, ledger.transaction() as db:
        sieve = Sieve(str(to_text(now)))
        # Nobody knows which rows are missing, so the rows that are left release no VM.
        sieve.everyone, sieve.rev = True, ledger.rev
        carried = _carry_over(old, db, sieve, on_beat)
        db.execute(schema.HISTORY_OF_USAGE)
        _renumber(db, ledger.rev)
        completed = complete(ledger, sieve, f"the ledger was damaged and set aside as {aside}; {carried}")
    # The last connection to a file writes its log into it, unless the disk is full.
    if Path(f"{making}-wal").exists():
        raise LedgerError(f"{making}: the new ledger cannot be written", "free some disk space")
    making.rename(_beside(path, _READY + stamp))
    return completed


def take_place(path: Path) -> Path | None:
    """Put a replacement that is whole into the damaged ledger's place. Returns where the damaged one is now; None if no
    replacement was there."""
    ready = next(iter(sorted(path.parent.glob(f"{escape(path.name)}.{_READY}*"))), None)
    if ready is None:
        return None
    aside = path.with_name(ready.name.replace(f".{_READY}", f".{_ASIDE}"))
    # The log first: SQLite would write the damaged ledger's log into another file at its path.
    for suffix in _LOGS:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(_free(Path(f"{aside}{suffix}")))
    # There is a ledger at the path at every moment: addvm would make one where there is none.
    if path.exists() and not (aside.exists() and aside.samefile(path)):
        free = _free(aside)
        try:
            free.hardlink_to(path)
        except OSError:
            path.rename(free)  # the file system has no hard links
    ready.replace(path)
    return aside


def _free(path: Path) -> Path:
    """The path, or one like it where no file is yet."""
    free, number = path, 0
    while free.exists():
        free, number = path.with_name(f"{path.name}.{number}"), number + 1
    return free


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def _remove(path: Path) -> None:
    for suffix in (*_LOGS, ""):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _renumber(db: sqlite3.Connection, rev: int) -> None:
    """Give the rows new revs: with the damaged ledger's, the book would miss changes until this ledger's revs reach
    them. Each VM's usage gets one of its own, as the book takes rows of the same rev together, and would need a
    gigabyte for all at once."""
    for table in ("vm", "block"):
        db.execute(f"UPDATE {table} SET rev = ?", (rev,))  # noqa: S608 (names of this function)
    for (vm_id,) in db.execute("SELECT id FROM vm").fetchall():
        db.execute("UPDATE usage SET rev = ? WHERE vm_id = ?", (bindings.next_rev(db), vm_id))


def _carry_over(old: sqlite3.Connection, db: sqlite3.Connection, sieve: Sieve, on_beat: Callable[[], None]) -> str:
    """Copy the rows that can be read, table by table, from both ends up to the damage. Rows of VMs that could not be
    read are dropped, since other VMs get their ids. Returns a sentence on it."""
    with reading_anything(old):
        for each in (old, db):
            each.set_progress_handler(on_beat, _STEPS)
        old.row_factory = sqlite3.Row
        told = [f"{_copy(old, db, table, sieve)} {table} rows" for table in _CARRIED]
        for row in _read(old, _ALIASED, "meta", sieve):
            _insert(db, "meta", dict(row))
        if "vm" in sieve.cut:
            for vm_id, name in _read(old, _INDEXED["vm"], "vm_name", sieve):
                if sound.whole(vm_id) and sound.text(name):
                    _insert(db, "vm", {"id": vm_id, "name": name, "found_at": sieve.now, "rev": sieve.rev})
        if "block" in sieve.cut:
            sieve.blocked |= {row[0] for row in _read(old, _INDEXED["block"], "block_active", sieve)}
    sieve.part_orphans(db)
    return "carried over " + ", ".join(told)


def _copy(old: sqlite3.Connection, db: sqlite3.Connection, table: str, sieve: Sieve) -> int:
    """Copy one table, by the names of its columns: one of an earlier version has fewer. Returns how many rows."""
    known, rows = shapes(db)[table], 0
    try:
        columns = [row[0] for row in old.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        keys = [row[0] for row in old.execute("SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", (table,))]
    except sqlite3.Error as error:
        log.warning("%s cannot be read: %s", table, error)
        columns = []
    shape = Shape(table, {name: known.columns[name] for name in columns if name in known.columns})
    if not shape.columns:
        sieve.cut.add(table)
        return 0
    text = f"SELECT {', '.join(shape.columns)} FROM {table}"  # noqa: S608 (names of the schema)
    backwards = ", ".join(f"{key} DESC" for key in keys)
    for sql in (text, f"{text} ORDER BY {backwards}"):
        for row in _read(old, sql, table, sieve):
            rows += _insert(db, table, sieve.pass_through(shape, dict(row)))
        if table not in sieve.cut:
            break
    return rows


def _read(old: sqlite3.Connection, sql: str, table: str, sieve: Sieve) -> Iterator[sqlite3.Row]:
    """The rows up to the damage, which is noted in the sieve."""
    try:
        yield from old.execute(sql)
    except sqlite3.Error as error:
        sieve.cut.add(table)
        log.warning("reading %s ended early: %s", table, error)


def _insert(db: sqlite3.Connection, table: str, row: Mapping[str, object] | None) -> int:
    if row is None:
        return 0
    marks = ", ".join("?" * len(row))
    done = db.execute(
        f"INSERT OR IGNORE INTO {table} ({', '.join(row)}) VALUES ({marks})",  # noqa: S608 (names of the schema)
        tuple(row.values()),
    )
    return done.rowcount

"""A damaged or lost ledger: rows that can be read are kept in use, no file is deleted, and no VM is released by it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from xenbw.ledger import check, kept, schema, sound
from xenbw.ledger.ledger import CorruptLedgerError, Ledger, to_text
from xenbw.ledger.sieve import Sieve, reading_anything, shapes
from xenbw.ledger.sift import sift
from xenbw.ledger.sound import Shape

log = logging.getLogger(__name__)

# Seconds to look for damage at start: guests at boot wait for READY.
_CHECK = 1.0

# The tables that a new ledger needs. Bindings are found again; history stays in the file that is set aside.
_CARRIED = ("vm", "block", "usage", "elsewhere")
# Indexes have pages of their own: they can tell of rows that cannot be read.
_INDEXED = {
    "vm": "SELECT id, name FROM vm INDEXED BY vm_name WHERE retired_at IS NULL",
    "block": "SELECT vm_id FROM block INDEXED BY block_active WHERE lifted_at IS NULL",
}


Blocked = Mapping[str, Iterable[str]]
"""The blocked VMs by name, with their addresses."""


def open_or_replace(
    path: Path, listed: Blocked | None, now: datetime, on_progress: Callable[[float], None] = lambda _: None
) -> Ledger:
    """Open the ledger, or make one where there is none. Its `damage` says what was wrong with it. For the daemon alone.

    Rows with impossible values are taken out. A file that cannot be read as a whole is renamed and replaced by a new
    one, with the VMs, blocks and usage that can still be read. A VM that was blocked, by the ledger or by `listed`,
    stays blocked.

    listed: the blocked VMs of the over file, or None if there is no such file; it holds for this host also if it was
    written for another ledger, as before a change of [ledger] path. on_progress: as for Ledger.open. Raises LedgerError
    for everything else that is wrong with the ledger.
    """
    sieve = Sieve(str(to_text(now)))
    missing = listed is not None and not _has_content(path)
    try:
        ledger = _open(path, sieve, on_progress)
    except CorruptLedgerError as error:
        stamp = f"damaged-{now:%Y%m%dT%H%M%SZ}"
        aside = path.with_name(f"{path.name}.{stamp}")
        log.error("%s; set aside as %s", error.message, aside)
        ledger, told = _replace(path, aside, Sieve(str(to_text(now))), listed, now)
    else:
        told = ""
        if sieve.aside:
            told = f"{len(sieve.aside)} rows with impossible values are set aside in {_write_aside(path, sieve, now)}"
        elif missing:
            told = f"{path}: the ledger was gone or empty, so a new one was made (is its file system mounted?)"
        _keep(ledger, sieve, listed, now, told)
    _suspect(path).unlink(missing_ok=True)
    return ledger


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _open(path: Path, sieve: Sieve, on_progress: Callable[[float], None]) -> Ledger:
    """Open the ledger and sift its rows. Raises CorruptLedgerError if more than values is damaged."""
    ledger = Ledger.open(path, create=True, patience=0.5, on_progress=on_progress)
    # A ledger that was found damaged in use is checked completely, however long that takes.
    suspect = _suspect(path).exists()
    try:
        ledger.lend(lambda db: sift(db, sieve, math.inf if suspect else _CHECK))
        check.check(ledger, math.inf if suspect else _CHECK)
        if suspect and not sieve.aside:
            raise CorruptLedgerError(f"{path}: the ledger was found damaged while in use", "it is set aside")
    except BaseException:
        ledger.close()
        raise
    return ledger


def _write_aside(path: Path, sieve: Sieve, now: datetime) -> Path:
    """Write the rows that were set aside into a file beside the ledger, as JSON, for the admin."""
    aside = path.with_name(f"{path.name}.rows-{now:%Y%m%dT%H%M%SZ}.jsonl")
    with contextlib.suppress(OSError):
        file = os.open(aside, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as stream:
            stream.writelines(f"{line}\n" for line in sieve.aside)
    return aside


def _replace(path: Path, aside: Path, sieve: Sieve, listed: Blocked | None, now: datetime) -> tuple[Ledger, str]:
    """Rename the ledger, and make a new one from the rows that can be read. Also returns what to tell the admin."""
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    ledger = Ledger.open(path, create=True, patience=0.5)
    with ledger.transaction() as db:
        # Nobody knows which rows are missing, so the rows that are left release no VM.
        sieve.everyone, sieve.rev = True, ledger.rev
        carried = _carry_over(db, aside, sieve)
        db.execute(schema.HISTORY_OF_USAGE)
        for table in ("vm", "block", "usage"):
            # With the damaged ledger's revs the book would miss changes until this ledger's revs reach them.
            db.execute(f"UPDATE {table} SET rev = ?", (ledger.rev,))  # noqa: S608 (names of this module)
        told = f"the ledger was damaged and set aside as {aside}; {carried}"
        _keep(ledger, sieve, listed, now, told)
    return ledger, told


def _keep(ledger: Ledger, sieve: Sieve, listed: Blocked | None, now: datetime, told: str) -> None:
    """Keep VMs blocked that were blocked before the damage, and record what was wrong."""
    with ledger.transaction():
        ledger.kept = kept.keep(ledger, sieve, listed or {}, now)
        if ledger.kept and not told:
            told = "the ledger shows some blocked VMs neither as blocked nor as released"
        if told:
            names = ", ".join(sorted(ledger.kept.values())) or "nobody"
            # The names are for the event only: the status names those that are still blocked.
            ledger.damage = told
            ledger.record(now, "damaged", f"{told}; blocked until an admin lifts them: {names}")


def mark(path: Path) -> None:
    """Mark the ledger as damaged for the next start, whose short check might not find the damage."""
    with contextlib.suppress(OSError):
        _suspect(path).touch()


def _suspect(path: Path) -> Path:
    return path.with_name(f"{path.name}.suspect")


def _carry_over(db: sqlite3.Connection, aside: Path, sieve: Sieve) -> str:
    """Copy the rows that can be read, table by table, from both ends up to the damage. Rows of VMs that could not be
    read are dropped, since other VMs get their ids. Returns a sentence on it."""
    with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as old, reading_anything(old):
        old.row_factory = sqlite3.Row
        told = [f"{_copy(old, db, table, sieve)} {table} rows" for table in _CARRIED]
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

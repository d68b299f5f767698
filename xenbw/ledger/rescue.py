"""A damaged or lost ledger: what can be read goes on, nothing is thrown away, and nobody is set free by it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from xenbw.ledger import check, kept, sound
from xenbw.ledger.ledger import CorruptLedgerError, Ledger, to_text
from xenbw.ledger.sieve import Sieve, reading_anything, shapes
from xenbw.ledger.sift import sift
from xenbw.ledger.sound import Shape
from xenbw.rundir import overfile

log = logging.getLogger(__name__)

# Seconds to look for damage at start: guests at boot wait for READY.
_CHECK = 1.0

# What a new ledger needs to go on as before; bindings are found again, history stays in the file set aside.
_CARRIED = ("vm", "block", "usage", "elsewhere")
# What indexes still tell of rows that cannot be read, since they are on pages of their own.
_INDEXED = {
    "vm": "SELECT id, name FROM vm INDEXED BY vm_name WHERE retired_at IS NULL",
    "block": "SELECT vm_id FROM block INDEXED BY block_active WHERE lifted_at IS NULL",
}


def open_or_replace(path: Path, over: Path, now: datetime, on_progress: Callable[[], None] = lambda: None) -> Ledger:
    """The ledger, made where there is none; what was wrong with it is in its `damage`. For the daemon alone.

    Rows with values that cannot be are taken out of it. A file that cannot be read as a whole is renamed and replaced
    by a new one, with whatever of its VMs, blocks and usage can still be read. Whoever was blocked, by the ledger or by
    the over file, stays blocked.

    on_progress: as for Ledger.open. Raises LedgerError for everything else that is wrong with it.
    """
    sieve, listed = Sieve(str(to_text(now))), overfile.read(str(over))
    # Of another ledger's VMs, as after a change of [ledger] path, the file tells as well who is blocked on this host.
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
            told = f"{len(sieve.aside)} rows had values that cannot be, and are in {_write_aside(path, sieve, now)}"
        elif missing:
            told = f"{path}: the ledger was gone or empty, so a new one was begun (is its file system mounted?)"
        _keep(ledger, sieve, listed, now, told)
    _suspect(path).unlink(missing_ok=True)
    return ledger


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _open(path: Path, sieve: Sieve, on_progress: Callable[[], None]) -> Ledger:
    """Raises CorruptLedgerError where the file is damaged in more than values."""
    ledger = Ledger.open(path, create=True, patience=0.5, on_progress=on_progress)
    # Where damage was met in use, all of the ledger is looked at, however long that takes.
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
    """Keep the rows for the admin, as JSON, beside the ledger."""
    aside = path.with_name(f"{path.name}.rows-{now:%Y%m%dT%H%M%SZ}.jsonl")
    with contextlib.suppress(OSError):
        file = os.open(aside, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as stream:
            stream.writelines(f"{line}\n" for line in sieve.aside)
    return aside


def _replace(path: Path, aside: Path, sieve: Sieve, listed: overfile.Over | None, now: datetime) -> tuple[Ledger, str]:
    """A new ledger in place of one that is renamed, with what can be read of it."""
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    ledger = Ledger.open(path, create=True, patience=0.5)
    with ledger.transaction() as db:
        # What is missing is not known, so nobody is released by what is there.
        sieve.everyone, sieve.rev = True, ledger.rev
        carried = _carry_over(db, aside, sieve)
        for table in ("vm", "block", "usage"):
            # By the damaged ledger's count the book would wait for revs that this one has yet to reach.
            db.execute(f"UPDATE {table} SET rev = ?", (ledger.rev,))  # noqa: S608 (names of this module)
        told = f"the ledger was damaged and set aside as {aside}; {carried}"
        _keep(ledger, sieve, listed, now, told)
    return ledger, told


def _keep(ledger: Ledger, sieve: Sieve, listed: overfile.Over | None, now: datetime, told: str) -> None:
    """Nobody may come free because a file was damaged. Tells of it."""
    with ledger.transaction():
        ledger.kept = kept.keep(ledger, sieve, listed.blocked if listed else {}, now)
        if ledger.kept and not told:
            told = "the ledger does not say of all that were blocked, nor that they were released"
        if told:
            names = ", ".join(sorted(ledger.kept.values())) or "nobody"
            # The event keeps the names; who of them is still blocked, the status tells as it is then.
            ledger.damage = told
            ledger.record(now, "damaged", f"{told}; blocked until an admin lifts them: {names}")


def mark(path: Path) -> None:
    """Leave word for the next start that the ledger is damaged, where a short look at it might not find out."""
    with contextlib.suppress(OSError):
        _suspect(path).touch()


def _suspect(path: Path) -> Path:
    return path.with_name(f"{path.name}.suspect")


def _carry_over(db: sqlite3.Connection, aside: Path, sieve: Sieve) -> str:
    """Copy what can still be read, table by table, from both ends up to the damage; then part with rows whose VMs could
    not be: another VM gets their ids."""
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
    """Rows up to the damage, which is noted."""
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

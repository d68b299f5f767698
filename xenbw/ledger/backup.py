"""The copy that is made of a ledger before it is brought to another schema: the way back from an upgrade."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from xenbw.ledger.trouble import LedgerError
from xenbw.units import format_size

# Pages copied between two calls of on_progress: 16 MB, for which a slow disk needs a second.
_STEP = 4096
# Bytes left for other programs that write meanwhile: the copy must not fill the disk.
_SPARE = 16 * 1024**2

_State = tuple[object, ...]
"""(schema version, id of the ledger, rev): every change of a ledger raises its rev, so these identify its content."""


def path_of(ledger: Path, version: int) -> Path:
    """The path of the copy of a ledger with that schema."""
    return ledger.with_name(f"{ledger.name}.schema{version}")


def keep(db: sqlite3.Connection, ledger: Path, version: int, on_progress: Callable[[float], None]) -> None:
    """Copy the ledger, which has that schema, as it is now. The copy is whole and on the disk, or not there.

    A copy of the same content, from an upgrade that failed, is kept. A complete new copy replaces an older one. Other
    processes go on writing: the ledger is read as of one moment. on_progress is called after each 16 MB, with
    the share of the ledger that is copied. Raises LedgerError; then nothing has changed.
    """
    copy = path_of(ledger, version)
    unfinished = copy.with_name(f"{copy.name}.new")
    # In WAL mode a read transaction sees one state, however long it takes.
    db.execute("BEGIN")
    try:
        if _state_of(copy) == _state(db):
            return
        # A process that was killed may have left one.
        unfinished.unlink(missing_ok=True)
        _need_room(db, ledger)
        _write(db, unfinished, on_progress)
        unfinished.replace(copy)
        _sync_folder(copy.parent)
    except OSError as error:
        raise _failed(copy, error.strerror) from None
    finally:
        with suppress(OSError):
            unfinished.unlink()
        db.execute("COMMIT")


def _state(db: sqlite3.Connection) -> _State:
    facts = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('id', 'rev')").fetchall())
    return (*db.execute("PRAGMA user_version").fetchone(), facts.get("id"), facts.get("rev"))


def _state_of(copy: Path) -> _State | None:
    """The state of the copy at that path, or None if there is no readable copy."""
    # With immutable, reading leaves no -wal and -shm files.
    try:
        with closing(sqlite3.connect(f"{copy.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as db:
            return _state(db)
    except sqlite3.Error:
        return None


def _need_room(db: sqlite3.Connection, ledger: Path) -> None:
    size = db.execute("PRAGMA page_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0]
    disk = os.statvfs(ledger.parent)
    free = disk.f_bavail * disk.f_frsize
    if free < size + _SPARE:
        raise LedgerError(
            f"{ledger}: no room for the copy that is made before its upgrade"
            f" ({format_size(size + _SPARE)} needed, {format_size(free)} free)",
            f"free some space in {ledger.parent} and try again; nothing was changed, blocks stay",
        )


def _write(db: sqlite3.Connection, path: Path, on_progress: Callable[[float], None]) -> None:
    """Raises LedgerError, OSError, and sqlite3.Error if the ledger itself cannot be read."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def step(_status: int, remaining: int, total: int) -> None:
        # Synced in steps: one sync at the end would take as long as all of the copying.
        os.fdatasync(file)
        on_progress(1 - remaining / total if total else 1.0)

    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as target:
            # No program uses the file before it is renamed: it needs no journal, and one sync at the end.
            target.execute("PRAGMA journal_mode = OFF")
            target.execute("PRAGMA synchronous = OFF")
            db.backup(target, pages=_STEP, progress=step)
        os.fsync(file)
    except sqlite3.OperationalError as error:
        # Damage of the ledger is another kind of DatabaseError, which file.connect explains.
        raise _failed(path, str(error)) from None
    finally:
        os.close(file)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(path: Path, why: str | None) -> LedgerError:
    return LedgerError(
        f"{path}: {why}: the ledger could not be copied before its upgrade",
        f"see the space and the permissions in {path.parent} and try again; nothing was changed, blocks stay",
    )

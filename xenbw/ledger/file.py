"""The ledger's file: making it, opening it, bringing an older one up to date."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xenbw.checks import is_there
from xenbw.ledger import backup, schema
from xenbw.ledger.trouble import LedgerError, explain


@contextmanager
def _alone_at(path: Path) -> Iterator[None]:
    """Let one process in at a time: two that switch a new ledger to WAL at once get SQLITE_BUSY, whatever their
    patience."""
    # Only root can open the file, since a user who can open it could hold the lock for ever.
    gate = path.with_name(f"{path.name}.begin")
    lock = _lock(gate)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                gate.unlink()
            os.close(lock)


def _lock(gate: Path) -> int | None:
    """The locked file, or None if none can be made, as on a full disk: no ledger is begun or upgraded there either."""
    while True:
        try:
            lock = os.open(gate, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return lock
        os.close(lock)  # the process that held the lock before has removed the file


def _bring_up_to_date(db: sqlite3.Connection, path: Path, on_progress: Callable[[float], None]) -> None:
    # Asked again under the lock: another process may just have upgraded the ledger.
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if 0 < version < schema.VERSION:
        backup.keep(db, path, version, on_progress)
    if version == 0:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table (space.py)
    db.execute("PRAGMA journal_mode = WAL")
    schema.migrate(db)


@contextmanager
def _explained(path: Path, hint: str) -> Iterator[None]:
    """Raise LedgerError or CorruptLedgerError for an error of the file system or SQLite. hint: for an error of the
    file system other than a lack of permission."""
    try:
        yield
    except PermissionError:
        raise LedgerError(f"{path}: permission denied", "run it as root") from None
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}", hint) from None
    except sqlite3.Error as error:
        raise explain(path, error) from None


def _require(path: Path) -> None:
    """Raise LedgerError if there is no file, and OSError if that cannot be seen."""
    if not is_there(path):
        raise LedgerError(f"{path}: there is no ledger yet", "start xenbwd, or add a VM with xenbw-addvm")


def _connect(path: Path, mode: str, patience: float) -> sqlite3.Connection:
    """A connection to the file. mode: SQLite's, "rw" or "ro". patience: seconds. Raises sqlite3.Error."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=patience)
    db.row_factory = sqlite3.Row
    return db


def connect(path: Path, *, create: bool, patience: float, on_progress: Callable[[float], None]) -> sqlite3.Connection:
    """A connection to an up-to-date ledger; the arguments are Ledger.open's. Raises LedgerError, CorruptLedgerError."""
    with _explained(path, "is the file system mounted read-only or full?"):
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Its rows name customers and their traffic, so the file is for root only.
            # An existing file is not opened here: closing it would drop this process's SQLite locks on it.
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640))
        else:
            _require(path)
        db = _connect(path, "rw", patience)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > schema.VERSION:
            raise LedgerError(
                f"{path}: written by a newer xenbw (schema {version}, this one knows {schema.VERSION})",
                "upgrade xenbw; the ledger was left untouched",
            )
        if version < schema.VERSION:
            with _alone_at(path):
                _bring_up_to_date(db, path, on_progress)
        db.execute("PRAGMA synchronous = NORMAL")
    except LedgerError:
        db.close()
        raise
    except OSError as error:
        db.close()
        raise LedgerError(f"{path.parent}: {error.strerror}", "run it as root") from None
    except sqlite3.Error as error:
        db.close()
        raise explain(path, error) from None
    return db


def connect_to_read(path: Path, *, patience: float) -> sqlite3.Connection:
    """A connection that changes nothing, to a ledger of this version. Raises LedgerError."""
    with _explained(path, "see the file system and its permissions"):
        _require(path)
        db = _connect(path, "ro", patience)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        db.close()
        raise explain(path, error) from None
    if version != schema.VERSION:
        db.close()
        raise LedgerError(
            f"{path}: written by another version of xenbw (schema {version}, this one knows {schema.VERSION})",
            "restart xenbwd" if version < schema.VERSION else "upgrade xenbw",
        )
    return db


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is at that path."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def flush(path: Path) -> None:
    """Force committed transactions to the disk, without holding a lock. Raises OSError."""
    # Opening and closing the -wal file is safe: SQLite keeps its POSIX locks on the -shm file.
    try:
        log = os.open(f"{path}-wal", os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fdatasync(log)
    finally:
        os.close(log)

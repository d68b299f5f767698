"""The ledger's file: opening it, reading, whole transactions, and what went wrong in the admin's words."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from xenbw.ledger import backup, bindings, schema
from xenbw.ledger.trouble import CorruptLedgerError, LedgerError, explain, impossible

__all__ = ["Alive", "CorruptLedgerError", "LedgerError", "LedgerFile"]


@dataclass(frozen=True)
class Alive:
    """When the ledger was last committed, by the wall clock and by seconds since that boot."""

    at: datetime
    elapsed: float
    boot_id: str


@contextmanager
def _alone_at(path: Path) -> Iterator[None]:
    """One process at a time: two that switch a new ledger to WAL at once get SQLITE_BUSY, whatever their patience."""
    # A file that its owner alone can open: whoever can open what is locked can hold us up for as long as he likes.
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
    """The file's lock; None where no file can be made, as on a full disk, on which nothing is begun or upgraded."""
    while True:
        try:
            lock = os.open(gate, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return lock
        os.close(lock)  # who had it before us took it away with him


def _bring_up_to_date(db: sqlite3.Connection, path: Path, on_progress: Callable[[], None]) -> None:
    # Asked again, alone: another process may just have done it.
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if 0 < version < schema.VERSION:
        backup.keep(db, path, version, on_progress)
    db.execute("PRAGMA journal_mode = WAL")
    schema.migrate(db)


class LedgerFile:
    """One process's connection to the ledger.

    damage: what was wrong with it when it was opened (rescue). kept: the VMs, by id, that stay blocked for that reason.
    """

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self.path = db, path
        self._data_version = -1
        self._identity = _identity(path)
        self.rev = 0
        self.damage: str | None = None
        self.kept: Mapping[int, str] = {}

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        create: bool = False,
        patience: float = 5.0,
        on_progress: Callable[[], None] = lambda: None,
    ) -> Self:
        """Open the ledger, bringing an older one up to date; make one where `create` allows it.

        patience: seconds to wait for another process's transaction. on_progress: called now and then while an older
        ledger is copied before its upgrade, which can take long. Raises LedgerError, CorruptLedgerError.
        """
        try:
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
                # Its rows name customers and their traffic: root's eyes only.
                # Never opened by ourselves once it is there: closing it would drop this process's SQLite locks on it.
                with suppress(FileExistsError):
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640))
            elif not path.exists():
                raise LedgerError(f"{path}: there is no ledger yet", "start xenbwd, or add a VM with xenbw-addvm")
            db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=patience
            )
        except PermissionError:
            raise LedgerError(f"{path}: permission denied", "run it as root") from None
        except OSError as error:
            raise LedgerError(f"{path}: {error.strerror}", "is the file system mounted read-only or full?") from None
        except sqlite3.Error as error:
            raise explain(path, error) from None
        db.row_factory = sqlite3.Row
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
        return cls(db, path)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write, whole or not at all. Nested calls join the outer one. Raises LedgerError."""
        if self._db.in_transaction:
            yield self._db
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self.rev = bindings.next_rev(self._db)
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise explain(self.path, error) from None

    def rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """Read, without a lock; for the store's own modules. Raises LedgerError."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise explain(self.path, error) from None

    def rows_named(self, sql: str, values: Mapping[str, object]) -> list[sqlite3.Row]:
        """`rows`, with values by name. Raises LedgerError."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise explain(self.path, error) from None

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read meanwhile is as of one moment, whatever others write. Raises LedgerError."""
        self.rows("BEGIN")
        try:
            yield
        finally:
            self.rows("COMMIT")

    def changed_by_others(self) -> bool:
        """Whether another process wrote since the last call (PRAGMA data_version: microseconds)."""
        version = self.rows("PRAGMA data_version")[0][0]
        changed, self._data_version = version != self._data_version, version
        return bool(changed)

    def check(self, seconds: float) -> None:
        """Raise CorruptLedgerError if SQLite finds damage within so many seconds of looking; more is not waited for."""
        limit = time.monotonic() + seconds
        self._db.set_progress_handler(lambda: time.monotonic() > limit, 10_000)
        try:
            answer = self._db.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") != "SQLITE_INTERRUPT":
                raise explain(self.path, error) from None
        else:
            if answer[0] != "ok":
                raise explain(self.path, _Damaged())
        finally:
            self._db.set_progress_handler(None, 0)

    def lend(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Let another module of the store work on the connection, with transactions of its own. Raises LedgerError."""
        try:
            work(self._db)
        except sqlite3.Error as error:
            raise explain(self.path, error) from None

    def displaced(self) -> str | None:
        """What became of the file under this connection, if it is not the one at its path any more: what is written is
        lost when the last who has it open closes it."""
        now = _identity(self.path)
        if now == self._identity:
            return None
        return "another file is in its place" if now else "the file is gone: removed, or its file system unmounted"

    def sync(self) -> None:
        """Force committed transactions to the disk, with no lock held meanwhile."""
        # Opening and closing the -wal file is safe: SQLite keeps its POSIX locks on the -shm file.
        try:
            file = os.open(f"{self.path}-wal", os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fdatasync(file)
        finally:
            os.close(file)

    # meta

    def meta(self, key: str) -> Any:
        rows = self.rows("SELECT value FROM meta WHERE key = ?", key)
        return rows[0][0] if rows else None

    def set_meta(self, key: str, value: str | float) -> None:
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def alive(self) -> Alive | None:
        """The last commit by a daemon, or None before the first."""
        value = self.meta("alive")
        if value is None:
            return None
        try:
            at, elapsed, boot = value.split(" ")
            return Alive(datetime.fromisoformat(at), float(elapsed), boot)
        except (ValueError, AttributeError) as error:
            raise impossible(error) from None


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file that is."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _Damaged(sqlite3.DatabaseError):
    sqlite_errorname = "SQLITE_CORRUPT"

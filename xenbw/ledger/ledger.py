"""The ledger: a SQLite file with everything this host knows.

Daemon, hook and CLI open it side by side (WAL). Every write is one short transaction with a rev of its own. Nothing
slow happens inside a transaction, so that no lock is held for longer than the write itself.

A Ledger answers what stands now: VMs, live bindings, blocks in force. Everything else is a function of a Ledger in the
module of its table or task: viflog, usagelog, blocklog, eventlog, outbox and so on. All SQL is in this room.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from xenbw.ledger import bindings, file
from xenbw.ledger.rows import binding_of, block_of, text_of, to_column, to_text, vm_of
from xenbw.ledger.trouble import CorruptLedgerError, LedgerError, explain, impossible
from xenbw.model import VM, Binding, Block

__all__ = ["Alive", "CorruptLedgerError", "Ledger", "LedgerError", "to_text"]


@dataclass(frozen=True)
class Alive:
    """When the daemon last committed, by the wall clock and by seconds since that boot."""

    at: datetime
    elapsed: float
    boot_id: str


class Ledger:
    """One process's connection to the ledger.

    rev: the number of the last transaction. damage: what was wrong with the file when it was opened (rescue). kept: the
    names of the VMs, by id, that stay blocked because of that damage.
    """

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self.path = db, path
        self._data_version = -1
        self._identity = file.identity(path)
        self._written = False
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
        on_progress: Callable[[float], None] = lambda _: None,
    ) -> Self:
        """Open the ledger, and bring an older one up to date. With `create`, make one where there is none.

        patience: seconds to wait for another process's transaction. on_progress: called now and then, with the share
        that is done, while an older ledger is copied before its upgrade, which can take long. Raises LedgerError,
        CorruptLedgerError.
        """
        return cls(file.connect(path, create=create, patience=patience, on_progress=on_progress), path)

    @classmethod
    def open_to_read(cls, path: Path, *, patience: float) -> Self:
        """Open the ledger without changing it. patience: as for `open`. Raises LedgerError."""
        return cls(file.connect_to_read(path, patience=patience), path)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One write, whole or not at all. A nested call joins the outer transaction. Raises LedgerError."""
        if self._db.in_transaction:
            yield self._db
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                if not self._written and (why := self.displaced()):
                    # A daemon that replaced a damaged ledger had the lock.
                    raise LedgerError(f"{self.path}: {why}", "try again")
                self._written = True
                self.rev = bindings.next_rev(self._db)
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise explain(self.path, error) from None

    def rows(self, sql: str, *values: object, **named: object) -> list[sqlite3.Row]:
        """Read without a lock, with values by position or by name. For this room, the book and transfer. Raises
        LedgerError."""
        try:
            return self._db.execute(sql, named or values).fetchall()
        except sqlite3.Error as error:
            raise explain(self.path, error) from None

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Inside, all reads are as of one moment, whatever other processes write. Raises LedgerError."""
        self.rows("BEGIN")
        try:
            yield
        finally:
            self.rows("COMMIT")

    def changed_by_others(self, *, look: bool = True) -> bool:
        """Whether another process wrote since the last call (PRAGMA data_version: microseconds). look False: and tell
        the next caller the same."""
        version = self.rows("PRAGMA data_version")[0][0]
        changed = bool(version != self._data_version)
        if look:
            self._data_version = version
        return changed

    def lend(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Let another module of this room use the connection, with its own transactions. Raises LedgerError."""
        try:
            work(self._db)
        except sqlite3.Error as error:
            raise explain(self.path, error) from None

    def displaced(self) -> str | None:
        """Why this connection's file is no longer the file at its path, or None if it is. Writes to it are lost when
        the last process closes it."""
        now = file.identity(self.path)
        if now == self._identity:
            return None
        return "another file is in its place" if now else "the file is gone: removed, or its file system unmounted"

    # facts of the whole ledger

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

    # what stands now

    def vms(self) -> dict[int, VM]:
        """Every VM that was not removed, by id."""
        return {row["id"]: vm_of(row) for row in self.rows("SELECT * FROM vm WHERE retired_at IS NULL ORDER BY name")}

    def vm_named(self, name: str) -> VM | None:
        rows = self.rows("SELECT * FROM vm WHERE name = ? AND retired_at IS NULL", name)
        return vm_of(rows[0]) if rows else None

    def meet(self, name: str, at: datetime) -> VM:
        """The VM of that name. A new name gets a new row."""
        with self.transaction() as db:
            bindings.meet(db, name, text_of(at), self.rev)
        vm = self.vm_named(name)
        assert vm is not None  # noqa: S101 (just written)
        return vm

    def set_vm(self, vm_id: int, **values: object) -> None:
        """Change columns of a VM, which are named as in model.VM."""
        columns = ", ".join(f"{key} = ?" for key in values)
        with self.transaction() as db:
            db.execute(
                f"UPDATE vm SET {columns}, rev = ? WHERE id = ?",  # noqa: S608 (keyword names of this program)
                (*(to_column(value) for value in values.values()), self.rev, vm_id),
            )

    def live_bindings(self) -> dict[int, Binding]:
        return {row["id"]: binding_of(row) for row in self.rows("SELECT * FROM binding WHERE ended_at IS NULL")}

    def active_blocks(self) -> dict[int, Block]:
        """The blocks in force, by VM id."""
        return {row["vm_id"]: block_of(row) for row in self.rows("SELECT * FROM block WHERE lifted_at IS NULL")}

    # what happened

    def record(self, at: datetime, kind: str, text: str, vm_id: int | None = None) -> None:
        """Record an event for the admin."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO event (at, vm_id, kind, text, rev) VALUES (?, ?, ?, ?, ?)",
                (to_text(at), vm_id, kind, text, self.rev),
            )

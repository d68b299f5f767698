"""The ledger: a SQLite file with everything this host knows. All SQL but the hook's share of it is here.

Daemon, hook and CLI open it side by side (WAL). Every write is one short transaction, stamped with a rev of its own;
nothing slow happens inside one, so that no lock is held for longer than the write itself.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from xenbw.accounting import Pending
from xenbw.errors import XenbwError
from xenbw.model import VM, Action, Address, Binding, Block, Cause, Count, Counters, Kind, State
from xenbw.store import bindings, schema

# Rows deleted in one transaction: some 20 ms. A minute brings one reading for each vif.
_PRUNED_AT_ONCE = 5000


class LedgerError(XenbwError):
    """The ledger cannot be used: missing, locked, read-only, full, or newer than this program."""


class CorruptLedgerError(LedgerError):
    """The file is not a ledger, or is damaged. Only the daemon sets it aside."""


# A commit writes the same few times into every row.
@lru_cache(maxsize=64)
def to_text(moment: datetime | None) -> str | None:
    """A time as the ledger writes it: UTC, fixed width, so that text order is time order."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")


def _to_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _addresses(text: str) -> tuple[Address, ...]:
    return tuple(ip_address(word) for word in text.split())


@dataclass(frozen=True)
class Alive:
    """When the ledger was last committed, by the wall clock and by seconds since that boot."""

    at: datetime
    elapsed: float
    boot_id: str


def _vm(row: sqlite3.Row) -> VM:
    return VM(
        id=row["id"],
        name=row["name"],
        found_at=datetime.fromisoformat(row["found_at"]),
        added_at=_to_time(row["added_at"]),
        limit_bytes=row["limit_bytes"],
        unlimited=bool(row["unlimited"]),
        count=None if row["count"] is None else Count(row["count"]),
        warn_percent=row["warn_percent"],
        action=None if row["action"] is None else Action(row["action"]),
        reset_day=row["reset_day"],
        ips=_addresses(row["ips"]),
        config_file=row["config_file"],
        period_start=_to_time(row["period_start"]),
        period_rule=row["period_rule"],
        state=State(row["state"]),
        state_reason=row["state_reason"],
        state_since=_to_time(row["state_since"]),
        blocked_reason=row["blocked_reason"],
        lifted_until=_to_time(row["lifted_until"]),
    )


def _binding(row: sqlite3.Row) -> Binding:
    return Binding(
        id=row["id"],
        vm_id=row["vm_id"],
        boot_id=row["boot_id"],
        domid=row["domid"],
        devid=row["devid"],
        kind=Kind(row["kind"]),
        ifindex=row["ifindex"],
        interface=row["interface"],
        mac=row["mac"],
        ips=_addresses(row["ips"]),
        bridge=row["bridge"],
        started_at=datetime.fromisoformat(row["started_at"]),
        ended_at=_to_time(row["ended_at"]),
        end_reason=row["end_reason"],
        counted=Counters(row["in_bytes"], row["out_bytes"]),
        last=Counters(row["last_in"], row["last_out"]),
        last_at=_to_time(row["last_at"]),
    )


def _block(row: sqlite3.Row) -> Block:
    return Block(
        vm_id=row["vm_id"],
        cause=Cause(row["cause"]),
        reason=row["reason"],
        since=datetime.fromisoformat(row["since"]),
        until=_to_time(row["until"]),
        lifted_at=_to_time(row["lifted_at"]),
        lift_reason=row["lift_reason"],
    )


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return to_text(value)
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value)
    return int(value) if isinstance(value, bool) else value


def _explain(path: Path, error: sqlite3.Error) -> LedgerError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return CorruptLedgerError(f"{path}: the ledger is damaged", "start xenbwd: it sets the file aside; blocks stay")
    hint = {
        "SQLITE_BUSY": "another process holds it; try again",
        "SQLITE_READONLY": "is the file system mounted read-only? are you root?",
        "SQLITE_CANTOPEN": "is xenbwd running? are you root?",
        "SQLITE_FULL": "the disk is full; free some space",
        "SQLITE_IOERR": "the disk is full or answers with errors; see df and dmesg",
    }
    prefix = "_".join(name.split("_")[:2])
    return LedgerError(f"{path}: {error}", hint.get(prefix, "see the file system and its permissions"))


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time: two that switch a new ledger to WAL at once get SQLITE_BUSY, whatever their patience."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


class Ledger:
    """One process's connection to the ledger."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db, self.path = db, path
        self._data_version = -1
        self.rev = 0

    @classmethod
    def open(cls, path: Path, *, create: bool = False, patience: float = 5.0) -> Ledger:
        """Open the ledger, bringing an older one up to date; make one where `create` allows it.

        patience: seconds to wait for another process's transaction. Raises LedgerError, CorruptLedgerError.
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
            raise _explain(path, error) from None
        db.row_factory = sqlite3.Row
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > schema.VERSION:
                raise LedgerError(
                    f"{path}: written by a newer xenbw (schema {version}, this one knows {schema.VERSION})",
                    "upgrade xenbw; the ledger was left untouched",
                )
            if version < schema.VERSION:
                with _alone_in(path.parent):
                    db.execute("PRAGMA journal_mode = WAL")
                    schema.migrate(db)
            db.execute("PRAGMA synchronous = NORMAL")
        except LedgerError:
            db.close()
            raise
        except OSError as error:
            db.close()
            raise LedgerError(f"{path.parent}: {error.strerror}", "run it as root") from None
        except sqlite3.Error as error:
            db.close()
            raise _explain(path, error) from None
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
            raise _explain(self.path, error) from None

    def rows(self, sql: str, *values: object) -> list[sqlite3.Row]:
        """Read, without a lock; for the store's own modules. Raises LedgerError."""
        try:
            return self._db.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise _explain(self.path, error) from None

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
                raise _explain(self.path, error) from None
        else:
            if answer[0] != "ok":
                raise _explain(self.path, _Damaged())
        finally:
            self._db.set_progress_handler(None, 0)

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
        at, elapsed, boot = value.split(" ")
        return Alive(datetime.fromisoformat(at), float(elapsed), boot)

    # VMs

    def vms(self) -> dict[int, VM]:
        """Every VM that was not retired, by id."""
        return {row["id"]: _vm(row) for row in self.rows("SELECT * FROM vm WHERE retired_at IS NULL ORDER BY name")}

    def vm_named(self, name: str) -> VM | None:
        rows = self.rows("SELECT * FROM vm WHERE name = ? AND retired_at IS NULL", name)
        return _vm(rows[0]) if rows else None

    def meet(self, name: str, at: datetime) -> VM:
        """The VM of that name; a name never seen gets a row of its own."""
        with self.transaction() as db:
            bindings.meet(db, name, str(to_text(at)), self.rev)
        vm = self.vm_named(name)
        assert vm is not None  # noqa: S101 (just written)
        return vm

    def set_vm(self, vm_id: int, **values: object) -> None:
        """Change columns of a VM; names as in model.VM."""
        columns = ", ".join(f"{key} = ?" for key in values)
        with self.transaction() as db:
            db.execute(
                f"UPDATE vm SET {columns}, rev = ? WHERE id = ?",  # noqa: S608 (keyword names of this program)
                (*(_plain(value) for value in values.values()), self.rev, vm_id),
            )

    def retire(self, vm_id: int, at: datetime) -> None:
        """Take the VM's row out of service: a later VM of that name starts clean. Its history stays.

        If it runs, its interfaces go on, from where they are, under a row that nobody added.
        """
        with self.transaction() as db:
            self.lift(vm_id, at, "the VM was removed")
            (name,) = db.execute("SELECT name FROM vm WHERE id = ?", (vm_id,)).fetchone()
            live = [
                _binding(row) for row in self.rows("SELECT * FROM binding WHERE vm_id = ? AND ended_at IS NULL", vm_id)
            ]
            db.execute("UPDATE vm SET retired_at = ?, rev = ? WHERE id = ?", (to_text(at), self.rev, vm_id))
            for binding in live:
                self.end_binding(binding.id, at, "removed")
                self.bind(
                    at=at,
                    name=name,
                    boot_id=binding.boot_id,
                    domid=binding.domid,
                    devid=binding.devid,
                    kind=binding.kind.value,
                    ifindex=binding.ifindex,
                    interface=binding.interface,
                    mac=binding.mac,
                    ips=" ".join(map(str, binding.ips)),
                    bridge=binding.bridge,
                    baseline=tuple(binding.last),
                    since=to_text(binding.last_at),
                )

    # bindings

    def live_bindings(self) -> dict[int, Binding]:
        return {row["id"]: _binding(row) for row in self.rows("SELECT * FROM binding WHERE ended_at IS NULL")}

    def bindings_of(self, vm_id: int, since: datetime) -> list[Binding]:
        """The VM's bindings that lived after `since`, oldest first."""
        rows = self.rows(
            "SELECT * FROM binding WHERE vm_id = ? AND (ended_at IS NULL OR ended_at > ?) ORDER BY started_at, id",
            vm_id,
            to_text(since),
        )
        return [_binding(row) for row in rows]

    def latest_bindings(self) -> list[Binding]:
        """For each VM the bindings of its newest life, running or ended: where its addresses are known from."""
        rows = self.rows(
            "SELECT binding.* FROM binding JOIN (SELECT vm_id, max(id) AS id FROM binding GROUP BY vm_id) AS newest"
            " USING (vm_id) JOIN binding AS head ON head.id = newest.id"
            " WHERE binding.ended_at IS NULL OR (binding.boot_id = head.boot_id AND binding.domid = head.domid)"
        )
        return [_binding(row) for row in rows]

    def bind(self, *, at: datetime, **facts: Any) -> int:
        """See bindings.bind."""
        with self.transaction() as db:
            return bindings.bind(db, at=str(to_text(at)), rev=self.rev, **facts)

    def end_binding(self, binding_id: int, at: datetime, reason: str) -> None:
        with self.transaction() as db:
            bindings.end(db, binding_id, str(to_text(at)), reason, self.rev)

    def rename_interface(self, binding_id: int, interface: str, bridge: str | None) -> None:
        """The binding's interface has another name, or stands on another bridge."""
        with self.transaction() as db:
            db.execute(
                "UPDATE binding SET interface = ?, bridge = coalesce(?, bridge), rev = ? WHERE id = ?",
                (interface, bridge, self.rev, binding_id),
            )

    def unbind(self, *, at: datetime, **facts: Any) -> None:
        """See bindings.unbind."""
        with self.transaction() as db:
            bindings.unbind(db, at=str(to_text(at)), rev=self.rev, **facts)

    # usage

    def commit(self, pending: Pending, alive: Alive, *, heirs: bool = False) -> None:
        """Write what was counted since the last commit, and that this daemon was alive until then.

        heirs: an interface may have gone over to another binding meanwhile (its domain renamed, its VM removed); that
        one then goes on from what is written here, in the same transaction, or a crash would count some bytes twice.
        """
        with self.transaction() as db:
            rev = self.rev
            if heirs:
                db.executemany(
                    "UPDATE binding SET last_in = ?, last_out = ?, last_at = ?, rev = ? WHERE ended_at IS NULL"
                    " AND (boot_id, ifindex) ="
                    " (SELECT boot_id, ifindex FROM binding WHERE id = ? AND ended_at IS NOT NULL)",
                    [(*last, to_text(at), rev, id_) for id_, _, last, at in pending.bindings],
                )
            db.executemany(
                "UPDATE binding SET in_bytes = ?, out_bytes = ?, last_in = ?, last_out = ?, last_at = ?, rev = ?"
                " WHERE id = ?",
                ((*counted, *last, to_text(at), rev, id_) for id_, counted, last, at in pending.bindings),
            )
            db.executemany(
                "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " in_bytes = in_bytes + excluded.in_bytes, out_bytes = out_bytes + excluded.out_bytes,"
                " divided_bytes = divided_bytes + excluded.divided_bytes, rev = excluded.rev",
                (
                    (vm_id, to_text(s.period_start), to_text(s.hour), s.in_bytes, s.out_bytes, s.divided_bytes, rev)
                    for vm_id, s in pending.shares
                ),
            )
            self.set_meta("alive", f"{to_text(alive.at)} {alive.elapsed} {alive.boot_id}")

    def add_readings(self, readings: Iterable[tuple[int, Counters]], at: datetime) -> None:
        """Keep raw counters, (binding_id, counters), for the record."""
        with self.transaction() as db:
            text = to_text(at)
            db.executemany(
                "INSERT OR IGNORE INTO reading VALUES (?, ?, ?, ?, ?)",
                [(binding_id, text, *counters, self.rev) for binding_id, counters in readings],
            )

    def usage(self) -> dict[int, Counters]:
        """Each VM's usage in its present period."""
        rows = self.rows(
            "SELECT vm_id, sum(in_bytes), sum(out_bytes) FROM usage JOIN vm ON vm.id = vm_id"
            " AND vm.period_start = usage.period_start WHERE retired_at IS NULL GROUP BY vm_id"
        )
        return {row[0]: Counters(row[1], row[2]) for row in rows}

    def usage_in(self, vm_id: int, start: datetime) -> Counters:
        """A VM's usage in the period that starts there."""
        row = self.rows(
            "SELECT coalesce(sum(in_bytes), 0), coalesce(sum(out_bytes), 0) FROM usage"
            " WHERE vm_id = ? AND period_start = ?",
            vm_id,
            to_text(start),
        )[0]
        return Counters(row[0], row[1])

    def usage_since(self, vm_id: int, start: datetime) -> Counters:
        """A VM's usage in the hours from `start` on, whichever period they were filed under."""
        row = self.rows(
            "SELECT coalesce(sum(in_bytes), 0), coalesce(sum(out_bytes), 0) FROM usage WHERE vm_id = ? AND hour >= ?",
            vm_id,
            to_text(start),
        )[0]
        return Counters(row[0], row[1])

    def history(self, vm_id: int) -> list[tuple[datetime, Counters, int]]:
        """(period start, usage, bytes of it that were divided by time) per period, newest first."""
        rows = self.rows(
            "SELECT period_start, sum(in_bytes), sum(out_bytes), sum(divided_bytes) FROM usage WHERE vm_id = ?"
            " GROUP BY period_start ORDER BY period_start DESC",
            vm_id,
        )
        return [(datetime.fromisoformat(row[0]), Counters(row[1], row[2]), row[3]) for row in rows]

    def hours(self, vm_id: int, since: datetime) -> list[tuple[datetime, Counters]]:
        """(UTC hour, usage) from `since` on, oldest first."""
        rows = self.rows(
            "SELECT hour, sum(in_bytes), sum(out_bytes) FROM usage WHERE vm_id = ? AND hour >= ?"
            " GROUP BY hour ORDER BY hour",
            vm_id,
            to_text(since),
        )
        return [(datetime.fromisoformat(row[0]), Counters(row[1], row[2])) for row in rows]

    def refile(self, vm_id: int, start: datetime, rule: str) -> None:
        """The VM's rule for periods changed: its present period now starts at `start`, and the usage of the hours since
        then belongs to it."""
        with self.transaction() as db:
            values = {"vm": vm_id, "start": to_text(start), "rev": self.rev}
            moved = "FROM usage WHERE vm_id = :vm AND hour >= :start AND period_start != :start"
            db.execute(
                "INSERT INTO usage SELECT vm_id, :start, hour, sum(in_bytes), sum(out_bytes), sum(divided_bytes), :rev"
                f" {moved} GROUP BY hour ON CONFLICT DO UPDATE SET in_bytes = in_bytes + excluded.in_bytes,"
                " out_bytes = out_bytes + excluded.out_bytes,"
                " divided_bytes = divided_bytes + excluded.divided_bytes, rev = excluded.rev",
                values,
            )
            db.execute(f"DELETE {moved}", values)
            self.set_vm(vm_id, period_start=start, period_rule=rule)

    # blocks and events

    def active_blocks(self) -> dict[int, Block]:
        """The blocks in force, by VM id."""
        return {row["vm_id"]: _block(row) for row in self.rows("SELECT * FROM block WHERE lifted_at IS NULL")}

    def blocks_of(self, vm_id: int) -> list[Block]:
        """The VM's blocks, newest first."""
        return [_block(row) for row in self.rows("SELECT * FROM block WHERE vm_id = ? ORDER BY id DESC", vm_id)]

    def block(self, vm_id: int, cause: Cause, reason: str, since: datetime, until: datetime | None) -> None:
        """Record a block in force. One that is already there keeps its beginning and takes the new cause and end."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO block (vm_id, cause, reason, since, until, rev) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (vm_id) WHERE lifted_at IS NULL DO UPDATE SET cause = excluded.cause,"
                " reason = excluded.reason, until = excluded.until, rev = excluded.rev",
                (vm_id, cause.value, reason, to_text(since), to_text(until), self.rev),
            )

    def lift(self, vm_id: int, at: datetime, reason: str) -> None:
        """Record the end of the VM's block."""
        with self.transaction() as db:
            db.execute(
                "UPDATE block SET lifted_at = ?, lift_reason = ?, rev = ? WHERE vm_id = ? AND lifted_at IS NULL",
                (to_text(at), reason, self.rev, vm_id),
            )

    def record(self, at: datetime, kind: str, text: str, vm_id: int | None = None) -> None:
        """Note an event for the admin."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO event (at, vm_id, kind, text, rev) VALUES (?, ?, ?, ?, ?)",
                (to_text(at), vm_id, kind, text, self.rev),
            )

    def events(self, limit: int) -> list[tuple[datetime, str, str]]:
        """The newest events, (time, kind, text), newest first."""
        rows = self.rows("SELECT at, kind, text FROM event ORDER BY id DESC LIMIT ?", limit)
        return [(datetime.fromisoformat(row[0]), row[1], row[2]) for row in rows]

    def prune(self, readings_before: datetime, history_before: datetime) -> None:
        """Forget raw readings, and history of bindings, blocks, events and sent messages, from before these times, some
        thousand rows at a time, so that nobody waits for it. Usage stays."""
        old = to_text(history_before)
        for table, condition, before in (
            ("reading", "at < ?", to_text(readings_before)),
            ("event", "at < ?", old),
            ("block", "lifted_at < ?", old),
            ("outbox", "sent_at < ?", old),
            (
                "binding",
                "ended_at < ? AND id NOT IN (SELECT max(id) FROM binding GROUP BY vm_id)",
                to_text(min(history_before, readings_before)),
            ),
        ):
            key = "(at, binding_id)" if table == "reading" else "id"
            columns = key.strip("()")
            with self.transaction() as db:
                db.execute(
                    f"DELETE FROM {table} WHERE {key} IN"  # noqa: S608 (names of this function)
                    f" (SELECT {columns} FROM {table} WHERE {condition} LIMIT {_PRUNED_AT_ONCE})",
                    (before,),
                )


class _Damaged(sqlite3.DatabaseError):
    sqlite_errorname = "SQLITE_CORRUPT"

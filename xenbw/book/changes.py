"""The rows of the ledger that changed after a mark, in the order of their rev, a bounded number at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import time_of

_FACTS = {
    "binding": "SELECT binding.*, vm.name AS vm FROM binding JOIN vm ON vm.id = vm_id",
    "reading": "SELECT reading.*, vm.name AS vm, binding.vm_id, binding.interface, binding.domid, binding.devid,"
    " binding.boot_id, binding.ifindex"
    " FROM reading JOIN binding ON binding.id = binding_id JOIN vm ON vm.id = vm_id",
    "usage": "SELECT usage.*, vm.name AS vm, vm.found_at, vm.retired_at FROM usage JOIN vm ON vm.id = vm_id",
    "event": "SELECT event.*, vm.name AS vm FROM event LEFT JOIN vm ON vm.id = vm_id",
    # After binding: the documents of bindings that were folded are deleted then.
    "digest": "SELECT digest.*, vm.name AS vm, vm.found_at FROM digest JOIN vm ON vm.id = vm_id",
}
TABLES = tuple(_FACTS)


@dataclass(frozen=True)
class Chunk:
    """Rows of one table that changed after a mark, as they are now. upto: the mark once they are copied."""

    table: str
    rows: tuple[sqlite3.Row, ...]
    upto: int


def after(ledger: Ledger, table: str, mark: int, limit: int) -> Chunk:
    """The next rows, in the order of their last change. The rows of a transaction stay together, so there may be more
    rows than `limit`."""
    last = ledger.rows(f"SELECT rev FROM {table} WHERE rev > ? ORDER BY rev LIMIT 1 OFFSET ?", mark, limit - 1)  # noqa: S608
    upto = last[0][0] if last else ledger.meta("rev")
    rows = ledger.rows(f"{_FACTS[table]} WHERE {table}.rev > ? AND {table}.rev <= ? ORDER BY {table}.rev", mark, upto)
    return Chunk(table, tuple(rows), upto)


def sums(ledger: Ledger, vm_id: int, period_start: str) -> sqlite3.Row:
    """A VM's usage in one period."""
    return ledger.rows(
        "SELECT sum(in_bytes) AS in_bytes, sum(out_bytes) AS out_bytes, sum(divided_bytes) AS divided_bytes FROM usage"
        " WHERE vm_id = ? AND period_start = ?",
        vm_id,
        period_start,
    )[0]


def day_sums(ledger: Ledger, vm_id: int, day: str) -> sqlite3.Row:
    """A VM's usage on one UTC day, "2026-11-23"."""
    return ledger.rows(
        "SELECT sum(in_bytes) AS in_bytes, sum(out_bytes) AS out_bytes, sum(divided_bytes) AS divided_bytes FROM usage"
        " WHERE vm_id = ? AND hour >= ? AND hour < ?",
        vm_id,
        f"{day}T",
        f"{day}U",
    )[0]


def bindings_beside(ledger: Ledger, digest: sqlite3.Row) -> list[sqlite3.Row]:
    """The bindings in the ledger that began in the time of a digest of their VM."""
    return ledger.rows(
        "SELECT boot_id, ifindex, started_at FROM binding WHERE vm_id = ? AND started_at BETWEEN ? AND ?",
        digest["vm_id"],
        digest["started_at"],
        digest["ended_at"],
    )


@dataclass(frozen=True)
class Changed:
    """A VM of which something may have been counted."""

    id: int
    name: str
    found_at: datetime


def changed(ledger: Ledger, mark: int) -> list[Changed]:
    """The VMs whose usage, vifs or settings changed after a mark; after 0: all."""
    rows = ledger.rows(
        "SELECT id, name, found_at FROM vm WHERE rev > :mark OR id IN (SELECT vm_id FROM usage WHERE rev > :mark)"
        " OR id IN (SELECT vm_id FROM binding WHERE rev > :mark)",
        mark=mark,
    )
    return [Changed(row["id"], row["name"], time_of(row["found_at"])) for row in rows]


def hours_after(ledger: Ledger, vm_id: int, mark: int) -> list[datetime]:
    """The hours whose usage changed after a mark; of usage that is kept by the day or period, its first hour."""
    rows = ledger.rows("SELECT DISTINCT substr(hour, 1, 13) FROM usage WHERE vm_id = ? AND rev > ?", vm_id, mark)
    return [datetime.fromisoformat(f"{row[0]}:00+00:00") for row in rows]


def first_of_history(ledger: Ledger, vm_id: int) -> datetime | None:
    """When the VM's history begins, None if it has none."""
    rows = ledger.rows(
        "SELECT min(start) FROM (SELECT start FROM history WHERE vm_id = :vm"
        " UNION ALL SELECT start FROM history_run WHERE vm_id = :vm)",
        vm=vm_id,
    )
    return None if rows[0][0] is None else datetime.fromtimestamp(rows[0][0], UTC)


def backlog(ledger: Ledger, done: Mapping[str, int]) -> int:
    """How many rows the book lacks. done: the mark of each table."""
    return sum(
        int(ledger.rows(f"SELECT count(*) FROM {table} WHERE rev > ?", mark)[0][0])  # noqa: S608
        for table, mark in done.items()
    )

"""Portions: what each binding counted of its VM's usage in a period.

They are written in the same transactions as the VM's usage by the hour. Bytes that no binding here counted, such as
those of `xenbw import-bwmon`, are in the usage alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime, timedelta

from xenbw.accounting import HOUR, hour_of
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import binding_of, to_text
from xenbw.model import Binding, Counters

# Usage moves to another period by whole hours: only what was counted in whole hours of the new period surely moves.
SINCE = "(period_start >= :whole OR started_at >= :whole)"
_PORTION = "binding_id, period_start, binding_usage.in_bytes, binding_usage.out_bytes, vm_id, started_at"
_PORTIONS = f"(SELECT {_PORTION} FROM binding_usage JOIN binding ON binding.id = binding_id)"  # noqa: S608 (names)


def times(start: datetime) -> dict[str, str | None]:
    """The values of SINCE: the period's start, and the start of its first whole hour."""
    whole = hour_of(start + HOUR - timedelta(microseconds=1))
    return {"start": to_text(start), "whole": to_text(whole)}


def add(db: sqlite3.Connection, portions: Iterable[tuple[int, datetime, Counters]]) -> None:
    """Add what each binding counted in each period since the last commit: (binding_id, period start, bytes)."""
    db.executemany(
        "INSERT INTO binding_usage VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " in_bytes = in_bytes + excluded.in_bytes, out_bytes = out_bytes + excluded.out_bytes",
        [(binding_id, to_text(start), *amount) for binding_id, start, amount in portions],
    )


def refile(db: sqlite3.Connection, vm_id: int, start: datetime) -> None:
    """The VM's present period now starts at `start`: move portions there that lie in it as a whole. A portion that lies
    in it in part stays, since it cannot be divided."""
    values = {"vm": vm_id, **times(start)}
    moved = f"FROM {_PORTIONS} WHERE vm_id = :vm AND period_start != :start AND {SINCE}"
    db.execute(
        f"INSERT INTO binding_usage SELECT binding_id, :start, sum(in_bytes), sum(out_bytes) {moved}"
        " GROUP BY binding_id ON CONFLICT DO UPDATE SET in_bytes = in_bytes + excluded.in_bytes,"
        " out_bytes = out_bytes + excluded.out_bytes",
        values,
    )
    db.execute(
        f"DELETE FROM binding_usage WHERE (binding_id, period_start) IN (SELECT binding_id, period_start {moved})",  # noqa: S608
        values,
    )


def refile_all(db: sqlite3.Connection, vm_id: int, before: datetime, start: datetime) -> None:
    """Move all portions of the VM's period that began at `before` to the period that begins at `start`."""
    values = {"vm": vm_id, "before": to_text(before), "start": to_text(start)}
    own = "period_start = :before AND binding_id IN (SELECT id FROM binding WHERE vm_id = :vm)"
    db.execute(
        "INSERT INTO binding_usage SELECT binding_id, :start, in_bytes, out_bytes"  # noqa: S608 (as below)
        f" FROM binding_usage WHERE {own}"
        " ON CONFLICT DO UPDATE SET in_bytes = in_bytes + excluded.in_bytes,"
        " out_bytes = out_bytes + excluded.out_bytes",
        values,
    )
    db.execute(f"DELETE FROM binding_usage WHERE {own}", values)  # noqa: S608 (a text of this function)


def lives(ledger: Ledger, vm_id: int, start: datetime, *, refiled: bool = False) -> list[tuple[Binding, Counters]]:
    """The VM's bindings that lived in the period from `start` on or counted something in it, oldest first, each with
    what it counted. refiled: as the portions would be after `refile`. Raises LedgerError."""
    counted = f"(period_start = :start OR {SINCE})" if refiled else "period_start = :start"
    rows = ledger.rows(
        "SELECT binding.*, coalesce(sum(binding_usage.in_bytes), 0) AS portion_in,"  # noqa: S608 (texts of this module)
        " coalesce(sum(binding_usage.out_bytes), 0) AS portion_out"
        f" FROM binding LEFT JOIN binding_usage ON binding_id = binding.id AND {counted}"
        " WHERE vm_id = :vm GROUP BY binding.id"
        " HAVING ended_at IS NULL OR ended_at > :start OR portion_in + portion_out > 0 ORDER BY started_at, binding.id",
        vm=vm_id,
        **times(start),
    )
    return [(binding_of(row), Counters(row["portion_in"], row["portion_out"])) for row in rows]


def passed(ledger: Ledger, vm_id: int, boot_id: str) -> list[tuple[Binding, Counters]]:
    """The VM's live bindings of this boot, each with all bytes ever counted on its interface: usage, flood and refused
    bytes, of earlier bindings too. Raises LedgerError."""
    # SQLite keeps the order of a cross join; otherwise it would begin with all bindings of the boot.
    rows = ledger.rows(
        "SELECT live.*, sum(any.in_bytes + any.flood_bytes + any.refused_in_bytes) AS all_in,"
        " sum(any.out_bytes + any.refused_out_bytes) AS all_out FROM binding AS live"
        " CROSS JOIN binding AS any ON any.boot_id = live.boot_id AND any.ifindex = live.ifindex"
        " WHERE live.vm_id = ? AND live.boot_id = ? AND live.ended_at IS NULL GROUP BY live.id ORDER BY live.id",
        vm_id,
        boot_id,
    )
    return [(binding_of(row), Counters(row["all_in"], row["all_out"])) for row in rows]

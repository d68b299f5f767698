"""Folding usage: rows of hours long ago become one row a day, and later one row a period.

Their sums stay: `usage` is what a VM used in each period, for ever. The history keeps hours for itself. The times of
folded rows are a microsecond or two past the hour, which tells them from the usage of that hour. Usage that another
program counted is filed like a folded day, since nobody knows its hours.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta

from xenbw.ledger.rows import to_text

_HOUR, _DAY, _PERIOD = ".000000+00:00", ".000001+00:00", ".000002+00:00"
UNTIMED = timedelta(microseconds=1)
"""How far past its hour usage is filed of which only the sum is known."""
# Folded in one transaction: some 5 ms.
_AT_ONCE = 800


def is_hour(text: str) -> bool:
    """Whether a row of usage with this time is that of one hour."""
    return text.endswith(_HOUR)


def fold(db: sqlite3.Connection, vm_id: int, days_before: datetime, periods_before: datetime) -> bool:
    """Fold hours before `days_before` into days, and days before `periods_before` into periods, but none of the VM's
    present period. Whether there may be more to fold: some hundred rows are folded at a time."""
    days = _fold(db, vm_id, f"substr(hour, 1, 11) || '00:00:00{_DAY}'", _HOUR, days_before)
    periods = _fold(db, vm_id, f"substr(period_start, 1, 19) || '{_PERIOD}'", _DAY, periods_before)
    return max(days, periods) >= _AT_ONCE


def _fold(db: sqlite3.Connection, vm_id: int, into: str, folded: str, before: datetime) -> int:
    """Fold the VM's oldest rows whose times end with `folded`. into: SQL for the time of the new row. Returns how many
    rows were folded."""
    rows = db.execute(
        f"SELECT vm_id, period_start, {into}, in_bytes, out_bytes, divided_bytes, rev, hour FROM usage"  # noqa: S608
        " WHERE vm_id = :vm AND hour < :before AND substr(hour, 20) = :folded"
        " AND period_start < (SELECT period_start FROM vm WHERE id = :vm) ORDER BY period_start, hour LIMIT :most",
        {"vm": vm_id, "before": to_text(before), "folded": folded, "most": _AT_ONCE},
    ).fetchall()
    # The new row has the largest rev of its hours: it is pushed to the book only if one of them still is to be.
    db.executemany(
        "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " in_bytes = in_bytes + excluded.in_bytes, out_bytes = out_bytes + excluded.out_bytes,"
        " divided_bytes = divided_bytes + excluded.divided_bytes, rev = max(rev, excluded.rev)",
        [tuple(row)[:7] for row in rows],
    )
    db.executemany(
        "DELETE FROM usage WHERE vm_id = ? AND period_start = ? AND hour = ?",
        [(row[0], row[1], row[7]) for row in rows],
    )
    return len(rows)

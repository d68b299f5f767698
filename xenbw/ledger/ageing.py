"""Ageing: the history keeps short spans for some time and longer spans for longer, so that the ledger stays small.

Values of a span that has become too old are added to the next longer span; the oldest years are deleted. Five-minute
values and hours are packed into runs once their run is over.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo

from xenbw.ledger import folding, history, runs
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.runs import Run
from xenbw.model import Amounts, Span

# Seconds of one call, and rows or runs that are moved in one transaction: some 10 ms.
_SECONDS = 0.03
_ROWS, _RUNS = 2000, 10
# Usage is moved to another period for at most a month back (judge/roster.py), and divided over at most 400 days.
_HOURS_OF_USAGE, _DAYS_OF_USAGE = timedelta(days=35), timedelta(days=401)

Keep = Mapping[Span, timedelta | None]
"""For each span how long its values are kept; None: for ever."""


class Ageing:
    """Goes round the VMs once a day, a few at each call, so that no call takes long."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._day: date | None = None
        self._left: list[int] = []

    def work(self, now: datetime, keep: Keep, zone: tzinfo, seconds: float = _SECONDS) -> None:
        """Go on with the round of this day (UTC) for so many seconds, by one VM at least. Raises LedgerError."""
        if now.date() != self._day:
            self._day = now.date()
            self._left = [row[0] for row in self._ledger.rows("SELECT id FROM vm ORDER BY id DESC")]
        until = time.monotonic() + seconds
        while self._left:
            vm_id = self._left.pop()
            if age(self._ledger, vm_id, now, keep, zone):
                self._left.insert(0, vm_id)
            if time.monotonic() >= until:
                break


def age(ledger: Ledger, vm_id: int, now: datetime, keep: Keep, zone: tzinfo) -> bool:
    """Age one VM's history and usage. Whether there may be more to do: it does a bounded part at a time. Raises
    LedgerError."""
    before = {span: None if kept is None else int((now - kept).timestamp()) for span, kept in keep.items()}
    with ledger.transaction() as db:
        vm = _Aged(db, vm_id, int(now.timestamp()), before, zone)
        more = [vm.pack(Span.FIVE_MINUTES), vm.to_hours(), vm.pack(Span.HOUR), vm.to_days()]
        more += [vm.lengthen(Span.DAY, Span.MONTH), vm.lengthen(Span.MONTH, Span.YEAR), vm.drop_years()]
        more.append(folding.fold(db, vm_id, now - _HOURS_OF_USAGE, now - _DAYS_OF_USAGE))
    return any(more)


class _Aged:
    """One VM's history inside a transaction. before: for each span, from when on its values are kept. Each method does
    a bounded part of its work, and returns whether there may be more."""

    def __init__(
        self, db: sqlite3.Connection, vm_id: int, now: int, before: Mapping[Span, int | None], zone: tzinfo
    ) -> None:
        self._db, self._vm_id, self._now, self._before, self._zone = db, vm_id, now, before, zone

    def pack(self, span: Span) -> bool:
        """Move rows into runs that are over."""
        rows = self._rows(span, runs.start_of(span, self._now))
        self._add_to_runs(span, [(row[0], Amounts(*row[1:])) for row in rows])
        self._delete(span, rows)
        return len(rows) == _ROWS

    def to_hours(self) -> bool:
        """Add five-minute runs that are too old to the hours."""

        def hour(start: int) -> int:
            return start - start % Span.HOUR

        old = self._old_runs(Span.FIVE_MINUTES)
        self._add_to_runs(Span.HOUR, [(hour(start), amounts) for run in old for start, amounts in run.values()])
        return len(old) == _RUNS

    def to_days(self) -> bool:
        """Add runs of hours that are too old to the days."""
        old = self._old_runs(Span.HOUR)
        self._put(Span.DAY, [value for run in old for value in run.values()])
        return len(old) == _RUNS

    def lengthen(self, span: Span, longer: Span) -> bool:
        """Add rows that are too old to the longer span."""
        rows = self._old_rows(span)
        self._put(longer, [(row[0], Amounts(*row[1:])) for row in rows])
        self._delete(span, rows)
        return len(rows) == _ROWS

    def drop_years(self) -> bool:
        """Delete years that are too old."""
        rows = self._old_rows(Span.YEAR)
        self._delete(Span.YEAR, rows)
        return len(rows) == _ROWS

    def _old_rows(self, span: Span) -> list[sqlite3.Row]:
        before = self._before[span]
        return [] if before is None else self._rows(span, before - span)

    def _rows(self, span: Span, before: int) -> list[sqlite3.Row]:
        return self._db.execute(
            f"SELECT start, {history.COLUMNS} FROM history"  # noqa: S608 (names of this room)
            " WHERE vm_id = ? AND span = ? AND start < ? ORDER BY start LIMIT ?",
            (self._vm_id, int(span), before, _ROWS),
        ).fetchall()

    def _delete(self, span: Span, rows: list[sqlite3.Row]) -> None:
        self._db.executemany(
            "DELETE FROM history WHERE vm_id = ? AND span = ? AND start = ?",
            [(self._vm_id, int(span), row[0]) for row in rows],
        )

    def _old_runs(self, span: Span) -> list[Run]:
        """Take out runs that are wholly too old."""
        before = self._before[span]
        if before is None:
            return []
        which = (self._vm_id, int(span), before - span * runs.LENGTH)
        rows = self._db.execute(
            "SELECT start, amounts FROM history_run WHERE vm_id = ? AND span = ? AND start <= ? ORDER BY start LIMIT ?",
            (*which, _RUNS),
        ).fetchall()
        self._db.executemany(
            "DELETE FROM history_run WHERE vm_id = ? AND span = ? AND start = ?",
            [(*which[:2], row[0]) for row in rows],
        )
        return [history.run_of(span, row[0], row[1]) for row in rows]

    def _add_to_runs(self, span: Span, values: list[tuple[int, Amounts]]) -> None:
        by_run: dict[int, list[tuple[int, Amounts]]] = {}
        for value in values:
            by_run.setdefault(runs.start_of(span, value[0]), []).append(value)
        for start, added in by_run.items():
            row = self._db.execute(
                "SELECT amounts FROM history_run WHERE vm_id = ? AND span = ? AND start = ?",
                (self._vm_id, int(span), start),
            ).fetchone()
            run = history.run_of(span, start, row[0] if row else None)
            run.add(added)
            self._db.execute(
                "INSERT OR REPLACE INTO history_run VALUES (?, ?, ?, ?)", (self._vm_id, int(span), start, run.text())
            )

    def _put(self, span: Span, values: list[tuple[int, Amounts]]) -> None:
        """Add values to the rows of a day, month or year of the zone."""
        moments = [(datetime.fromtimestamp(start, UTC), amounts) for start, amounts in values]
        begins = [(history.begin_of(span, moment, self._zone), amounts) for moment, amounts in moments]
        history.put(self._db, [(self._vm_id, span, int(begin.timestamp()), amounts) for begin, amounts in begins])

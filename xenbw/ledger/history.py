"""History: what was counted for each VM by five minutes, hour, day, month and year.

Each byte is in one value, of the shortest span that is still kept for its time (ageing.py). A value of a longer span is
the sum of the shorter ones in it and of a row of its own, if there is one.

Five minutes and hours are those of UTC. Days, months and years are those of a time zone; a value is in the one in which
it began. A sum that another program counted is a value of a day that begins a second past an hour, which tells it from
values that have become too old for a shorter span.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo

from xenbw.accounting import HOUR, cell_start
from xenbw.ledger import folding, runs
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import time_of, to_text
from xenbw.ledger.runs import Run
from xenbw.ledger.trouble import impossible
from xenbw.model import NOTHING, Amounts, Cell, Span

COLUMNS = ", ".join(Amounts._fields)
_PLUS = ", ".join(f"{column} = {column} + excluded.{column}" for column in Amounts._fields)
_SUMS = ", ".join(f"sum({column})" for column in Amounts._fields)
# All offsets of time zones are whole quarters of an hour.
_QUARTER = 900
_HANDOVER = timedelta(hours=3)
UNTIMED = timedelta(seconds=1)
"""How far past its hour a sum is filed that another program counted."""
_BY_CALENDAR = {Span.DAY: "day", Span.MONTH: "month", Span.YEAR: "year"}


def add(db: sqlite3.Connection, cells: Iterable[tuple[int, Cell]]) -> None:
    """Add what was counted since the last commit: (vm_id, cell)."""
    put(db, ((vm_id, span, int(start.timestamp()), amounts) for vm_id, (span, start, amounts) in cells))


def put(db: sqlite3.Connection, values: Iterable[tuple[int, Span, int, Amounts]]) -> None:
    """Add amounts to rows: (vm_id, span, start in seconds since 1970, amounts)."""
    marks = ", ".join("?" * (3 + len(Amounts._fields)))
    db.executemany(
        f"INSERT INTO history (vm_id, span, start, {COLUMNS}) VALUES ({marks})"  # noqa: S608 (names of this module)
        f" ON CONFLICT DO UPDATE SET {_PLUS}",
        ((vm_id, int(span), start, *amounts) for vm_id, span, start, amounts in values),
    )


def run_of(span: int, start: int, text: str | None) -> Run:
    """A run from its row. Raises CorruptLedgerError."""
    try:
        return Run(span, start, text)
    except ValueError as error:
        raise impossible(error) from None


def begin_of(span: Span, moment: datetime, zone: tzinfo) -> datetime:
    """When the span that contains moment began; days, months and years are those of the zone."""
    if span not in _BY_CALENDAR:
        return datetime.fromtimestamp(int(moment.timestamp()) // span * span, UTC)
    local = moment.astimezone(zone)
    month = local.month if span < Span.YEAR else 1
    return datetime(local.year, month, local.day if span is Span.DAY else 1, tzinfo=zone)


def values(
    ledger: Ledger, vm_id: int, span: Span, since: datetime, until: datetime, zone: tzinfo
) -> list[tuple[datetime, Amounts]]:
    """(start, amounts) of the VM's values of this span that are not zero, oldest first, from what was counted from
    `since` on and before `until`. What is kept for longer spans only is not in them. Raises LedgerError."""
    step = min(int(span), _QUARTER) if span in _BY_CALENDAR else int(span)
    sums: dict[int, Amounts] = {}
    for shorter in (one for one in Span if one <= span):
        for start, amounts in _of_span(ledger, vm_id, shorter, int(since.timestamp()), int(until.timestamp())):
            begin = start - start % step
            before = sums.get(begin)
            sums[begin] = amounts if before is None else before.plus(amounts)
    moments = ((datetime.fromtimestamp(begin, UTC), amounts) for begin, amounts in sorted(sums.items()))
    if span not in _BY_CALENDAR:
        return list(moments)
    found: dict[datetime, Amounts] = {}
    for moment, amounts in moments:
        key = begin_of(span, moment, zone)
        found[key] = found[key].plus(amounts) if key in found else amounts
    return list(found.items())


def recent(
    ledger: Ledger, vm_id: int, span: Span, number: int, now: datetime, zone: tzinfo
) -> list[tuple[datetime, Amounts]]:
    """(start, amounts) of the last `number` spans up to the present one, oldest first, from the first with traffic on.
    Raises LedgerError."""
    since = begin_of(span, now - number * timedelta(seconds=span), zone)
    found = dict(values(ledger, vm_id, span, since, now + timedelta(days=1), zone))
    spans, begin = [], since
    while begin <= now:
        spans.append((begin, found.get(begin, NOTHING)))
        begin = next_begin(span, begin)
    latest = spans[-number:]
    first = next((at for at, (_, amounts) in enumerate(latest) if any(amounts)), number)
    return latest[first:]


def finest(ledger: Ledger, vm_id: int, since: datetime, until: datetime) -> Span | None:
    """The shortest span for which all that was counted on this host in that time is kept, or None if nothing was
    counted. Raises LedgerError."""
    times = int(since.timestamp()), int(until.timestamp())

    def has(span: Span) -> bool:
        return any(start % Span.FIVE_MINUTES == 0 for start, _ in _of_span(ledger, vm_id, span, *times))

    return next((span for span in sorted(Span, reverse=True) if has(span)), None)


def _of_span(ledger: Ledger, vm_id: int, span: Span, since: int, until: int) -> Iterator[tuple[int, Amounts]]:
    """(start, amounts) as they are kept for this span alone, in no order."""
    for row in ledger.rows(
        "SELECT start, amounts FROM history_run WHERE vm_id = ? AND span = ? AND start >= ? AND start < ?",
        *(vm_id, int(span), runs.start_of(span, since), until),
    ):
        found = run_of(span, row[0], row[1]).values()
        yield from (value for value in found if since <= value[0] < until)
    for row in ledger.rows(
        f"SELECT start, {COLUMNS} FROM history WHERE vm_id = ? AND span = ?"  # noqa: S608 (names of this module)
        " AND start >= ? AND start < ?",
        *(vm_id, int(span), since, until),
    ):
        yield row[0], Amounts(*row[1:])


def catch_up(ledger: Ledger) -> None:
    """Once after an upgrade: add to the hours what the daemon of the version before counted between the upgrade of the
    ledger and its own end, up to _HANDOVER before its last commit. Call it before the first commit. Raises
    LedgerError."""
    alive = ledger.alive()
    if alive is None or ledger.meta("history") is not None:
        return
    with ledger.transaction() as db:
        rows = db.execute(
            "SELECT vm_id, hour, in_bytes, out_bytes FROM vm JOIN usage ON vm_id = vm.id"
            " AND usage.period_start = vm.period_start WHERE hour >= ?",
            (to_text(alive.at - _HANDOVER),),
        ).fetchall()
        for vm_id, text, in_bytes, out_bytes in (row for row in rows if folding.is_hour(row["hour"])):
            hour = time_of(text)
            kept = next(iter(values(ledger, vm_id, Span.HOUR, hour, hour + HOUR, UTC)), (hour, NOTHING))[1]
            rest = Amounts(max(0, in_bytes - kept.in_bytes), max(0, out_bytes - kept.out_bytes))
            add(db, [(vm_id, Cell(Span.HOUR, hour, rest))] if any(rest) else [])
        ledger.set_meta("history", "complete")


def refile_untimed(db: sqlite3.Connection, vm_id: int, start: datetime, now: datetime) -> None:
    """The VM's history is by a clock that proved wrong: move what it has from before `start` to the present five
    minutes."""
    old = "vm_id = ? AND start < ?"
    which = (vm_id, int(start.timestamp()))
    row = db.execute(f"SELECT {_SUMS} FROM history WHERE {old}", which).fetchone()  # noqa: S608 (as above)
    if row[0] is not None:
        db.execute(f"DELETE FROM history WHERE {old}", which)  # noqa: S608 (as above)
        put(db, [(vm_id, Span.FIVE_MINUTES, int(cell_start(now).timestamp()), Amounts(*row))])


def next_begin(span: Span, begin: datetime) -> datetime:
    """When the span after the one that began there begins."""
    if span not in _BY_CALENDAR:
        return begin + timedelta(seconds=span)
    zone = begin.tzinfo
    assert zone is not None  # noqa: S101 (all times are aware)
    beyond = begin + timedelta(days={Span.DAY: 1, Span.MONTH: 32, Span.YEAR: 367}[span], hours=12)
    return begin_of(span, beyond, zone)

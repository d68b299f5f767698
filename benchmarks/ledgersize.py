"""The size of the ledger at defaults, when all its spans are full, and the processor time that its history takes.

Every VM has one vif with traffic in all five minutes of the last 400 days and more; the numbers are random, so that
they are as hard to pack as real ones. The daemon's own functions write, age and prune the rows.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from benchmarks.figure import Figure
from tests.support.books import start_vif
from xenbw.config import LedgerSection
from xenbw.ledger import ageing, history, space
from xenbw.ledger.ledger import Ledger, to_text
from xenbw.ledger.runs import LENGTH, Run
from xenbw.model import Amounts, Span

_NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
_ZONE = ZoneInfo("UTC")
_KEEP = LedgerSection()
_MOST = 1000.0
_DIFFERENT = 40  # different runs: their text is no shorter in a file that has each many times


def measure() -> list[Figure]:
    figures = []
    for vms in (100, 1000):
        with tempfile.TemporaryDirectory() as folder:
            ledger = Ledger.open(Path(folder) / "ledger.db", create=True)
            _fill(ledger, vms)
            size = ledger.rows("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")[0][0] / 1e6
            figures.append(Figure(f"the ledger of {vms} vifs at defaults", size, "MB", _MOST))
            figures += _times(ledger, vms)
            ledger.close()
    return figures


def _fill(ledger: Ledger, vms: int) -> None:
    draw = random.Random(1)
    ids = [start_vif(ledger, f"vm-{n:04}", _NOW, domid=n + 1, devid=0).vm_id for n in range(vms)]
    with ledger.transaction() as db:
        db.execute("UPDATE vm SET period_start = '2026-11-01T00:00:00.000000+00:00'")
        for span, days in ((Span.FIVE_MINUTES, _KEEP.keep_minutes or 0), (Span.HOUR, _KEEP.keep_hours or 0)):
            length = span * LENGTH
            first, last = int((_NOW - timedelta(days=days)).timestamp()) // length, int(_NOW.timestamp()) // length
            texts = [_run(span, draw) for _ in range(_DIFFERENT)]
            db.executemany(
                "INSERT INTO history_run VALUES (?, ?, ?, ?)",
                ((vm_id, int(span), at * length, draw.choice(texts)) for at in range(first, last) for vm_id in ids),
            )
    _fill_rows(ledger, ids, draw)


def _run(span: Span, draw: random.Random) -> str:
    run = Run(span, 0)
    run.add((at * span, _amounts(span, draw)) for at in range(LENGTH))
    return run.text()


def _amounts(span: Span, draw: random.Random) -> Amounts:
    """Up to 20 Mbit/s in and out; some flood."""
    most = 2_500_000 * span
    return Amounts(draw.randrange(most), draw.randrange(most), draw.randrange(100 * span))


def _fill_rows(ledger: Ledger, ids: list[int], draw: random.Random) -> None:
    """What is by row: today's five minutes, usage by hour, day and period, a day or more of readings."""
    today = _NOW.replace(hour=0)
    for hours in range(12):
        with ledger.transaction() as db:
            at = int((today + timedelta(hours=hours)).timestamp())
            history.put(
                db,
                (
                    (vm_id, Span.FIVE_MINUTES, at + 300 * n, _amounts(Span.FIVE_MINUTES, draw))
                    for n in range(12)
                    for vm_id in ids
                ),
            )
    for hour in range(36 * 24):
        begin = _NOW - timedelta(hours=36 * 24 - hour)
        _use(ledger, ids, begin, to_text(begin), draw)
    for day in range(365):
        begin = (_NOW - timedelta(days=36 + day)).replace(hour=0)
        _use(ledger, ids, begin, to_text(begin + timedelta(microseconds=1)), draw)
    minutes = _KEEP.keep_readings * 1440
    for minute in range(minutes):
        with ledger.transaction() as db:
            text = to_text(_NOW - timedelta(minutes=minutes - minute))
            raw = [draw.randrange(10**12) for _ in range(4)]
            db.executemany(
                "INSERT INTO reading VALUES (?, ?, ?, ?, ?, ?, ?)", [(id_, text, *raw, ledger.rev) for id_ in ids]
            )


def _use(ledger: Ledger, ids: list[int], begin: datetime, hour: str | None, draw: random.Random) -> None:
    with ledger.transaction() as db:
        period = to_text(begin.replace(day=1, hour=0))
        db.executemany(
            "INSERT INTO usage VALUES (?, ?, ?, ?, ?, 0, ?)",
            [(id_, period, hour, draw.randrange(10**10), draw.randrange(10**10), ledger.rev) for id_ in ids],
        )


def _times(ledger: Ledger, vms: int) -> list[Figure]:
    vm_id = vms // 2
    month = _NOW - timedelta(days=31)
    # A day later, all VMs have a day to pack, a day to add to the hours, and a day of usage to fold.
    tomorrow = _NOW + timedelta(days=1)
    rounds = ageing.Ageing(ledger)
    calls = [_milliseconds(lambda: rounds.work(tomorrow, _KEEP.keep_spans, _ZONE)) for _ in range(40)]
    with ledger.transaction() as db:
        half = "SELECT at FROM reading LIMIT 1 OFFSET (SELECT count(*) / 2 FROM reading)"
        db.execute(f"DELETE FROM reading WHERE at < ({half})")  # noqa: S608 (a text of this function)
    gifts = [_milliseconds(lambda: space.give_back(ledger)) for _ in range(10)]
    return [
        Figure(
            f"  five-minute values of a month, of one of {vms} VMs, CPU",
            _read(ledger, vm_id, Span.FIVE_MINUTES, month),
            "ms",
            50,
        ),
        Figure("  days of a year of that VM, CPU", _read(ledger, vm_id, Span.DAY, _NOW - timedelta(days=365)), "ms"),
        Figure("  ageing in a round of the daemon, the longest of 40, CPU", max(calls), "ms", 100),
        Figure("  giving free pages back in a round, the longest of 10, CPU", max(gifts), "ms", 100),
    ]


def _read(ledger: Ledger, vm_id: int, span: Span, since: datetime) -> float:
    return min(_milliseconds(lambda: history.values(ledger, vm_id, span, since, _NOW, _ZONE)) for _ in range(5))


def _milliseconds(call: Callable[[], object]) -> float:
    """The processor time of a call."""
    begin = time.process_time()
    call()
    return (time.process_time() - begin) * 1000

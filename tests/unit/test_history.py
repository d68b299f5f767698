"""The history: each byte is in one value, of the shortest span that is still kept for its time.

The file is long: all its tests fill and read one VM's history, by the same helpers.
"""

from __future__ import annotations

import base64
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.books import BOOT, add_vm, start_vif
from tests.support.clock import utc
from xenbw.accounting import HOUR, Pending, Share, Tally, cells, divide, hour_of
from xenbw.book import changes
from xenbw.book.documents import Documents
from xenbw.clock import Moment
from xenbw.config import LedgerSection, Settings
from xenbw.judge.roster import Roster
from xenbw.ledger import ageing, folding, history, schema, sift, usagelog
from xenbw.ledger.ageing import Ageing, age
from xenbw.ledger.ledger import Alive, CorruptLedgerError, Ledger
from xenbw.ledger.runs import LENGTH, Run
from xenbw.ledger.sieve import Sieve
from xenbw.model import NOTHING, Amounts, Cell, Counters, Period, Reading, Span

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
NOON = utc("2026-03-21 12:00")
MARCH = utc("2026-03-01")
PRAGUE = ZoneInfo("Europe/Prague")
KEEP = LedgerSection().keep_spans
SPENT = Amounts(1, 2, 3, 4, 5)


@pytest.fixture
def vm_id(ledger: Ledger) -> int:
    return add_vm(ledger, "web1", MARCH, period_start=MARCH)


def count(ledger: Ledger, vm_id: int, *found: Cell) -> None:
    usagelog.commit(ledger, Pending((), (), (), tuple((vm_id, cell) for cell in found)), Alive(NOON, 1.0, BOOT))


def values(ledger: Ledger, vm_id: int, span: Span, zone: ZoneInfo = PRAGUE) -> list[tuple[datetime, Amounts]]:
    return history.values(ledger, vm_id, span, utc("2000-01-01"), utc("2100-01-01"), zone)


def age_wholly(ledger: Ledger, vm_id: int, now: datetime, keep: ageing.Keep = KEEP, zone: ZoneInfo = PRAGUE) -> int:
    """Age the VM until there is nothing left to do; how many steps that took."""
    steps = 1
    while age(ledger, vm_id, now, keep, zone):
        steps += 1
        assert steps < 1000
    return steps


def every(span: Span, since: datetime, until: datetime) -> Iterator[Cell]:
    at, n = since, 0
    while at < until:
        n += 1
        yield Cell(span, at, Amounts(n, 2 * n, 0, 0, n % 3))
        at += timedelta(seconds=span)


def total(found: list[tuple[datetime, Amounts]]) -> Amounts:
    whole = NOTHING
    for _, amounts in found:
        whole = whole.plus(amounts)
    return whole


# from readings to cells


def test_an_ordinary_reading_is_in_the_five_minutes_in_which_it_was_taken() -> None:
    assert list(cells(SPENT, NOON + MINUTE, NOON + 4 * MINUTE)) == [Cell(Span.FIVE_MINUTES, NOON, SPENT)]


def test_a_reading_across_five_minutes_is_divided_by_time() -> None:
    found = list(cells(Amounts(100, 11, 7), NOON - MINUTE, NOON + 3 * MINUTE))
    assert found == [
        Cell(Span.FIVE_MINUTES, NOON - 5 * MINUTE, Amounts(25, 2, 1)),
        Cell(Span.FIVE_MINUTES, NOON, Amounts(75, 9, 6)),
    ]


def test_a_gap_of_more_than_a_day_is_divided_over_hours() -> None:
    found = list(cells(Amounts(10**6, 0), NOON - 2 * DAY, NOON))
    assert {cell.span for cell in found} == {Span.HOUR}
    assert len(found) == 48


@pytest.mark.parametrize("back", [timedelta(0), MINUTE, timedelta(days=400)])
def test_if_the_clock_went_back_all_is_in_the_present_five_minutes(back: timedelta) -> None:
    assert list(cells(SPENT, NOON + back, NOON)) == [Cell(Span.FIVE_MINUTES, NOON, SPENT)]


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.timedeltas(timedelta(0), timedelta(days=40)))
def test_the_cells_of_an_hour_have_the_bytes_that_usage_has(in_bytes: int, out_bytes: int, gap: timedelta) -> None:
    until = NOON + 7 * MINUTE
    by_hour: dict[datetime, Counters] = {}
    for cell in cells(Amounts(in_bytes, out_bytes, 5, 6, 7), until - gap, until):
        hour = hour_of(cell.start)
        by_hour[hour] = by_hour.get(hour, Counters(0, 0)).plus(cell.amounts.usage)
    ever = Period(utc("2000-01-01"), utc("2100-01-01"))
    shares = divide(Counters(in_bytes, out_bytes), until - gap, until, lambda _: ever)
    assert {hour: usage for hour, usage in by_hour.items() if any(usage)} == {
        share.hour: Counters(share.in_bytes, share.out_bytes) for share in shares if share.in_bytes + share.out_bytes
    }


def test_flood_and_refused_bytes_are_in_the_history_though_they_are_no_usage(ledger: Ledger) -> None:
    binding = start_vif(ledger, "web1", NOON, domid=1)
    tally = Tally()
    tally.follow(binding, NOON)
    for n in (1, 2):
        own = Amounts(0, 0, 3 * n, 4 * n, 5 * n)
        reading = Reading(own.everything, own)
        grown = tally.credit({binding.id: reading}, NOON + n * MINUTE, lambda *_: Period(MARCH, utc("2026-04-01")))
        assert grown == set()
    usagelog.commit(ledger, tally.pending(), Alive(NOON, 1.0, BOOT))
    tally.settled()
    usagelog.commit(ledger, tally.pending(), Alive(NOON, 1.0, BOOT))
    assert values(ledger, binding.vm_id, Span.FIVE_MINUTES) == [(NOON, Amounts(0, 0, 6, 8, 10))]


def test_a_reading_after_a_gap_is_in_the_five_minutes_of_the_gap_and_each_hour_is_as_usage_has_it(
    ledger: Ledger,
) -> None:
    binding = start_vif(ledger, "web1", NOON, domid=1)
    ledger.set_vm(binding.vm_id, period_start=MARCH)
    tally = Tally()
    tally.follow(binding, NOON)
    raw = Counters(10**9 + 7, 12345)
    tally.credit({binding.id: Reading(raw)}, NOON + 137 * MINUTE, lambda *_: Period(MARCH, utc("2026-04-01")))
    usagelog.commit(ledger, tally.pending(), Alive(NOON, 1.0, BOOT))
    assert len(values(ledger, binding.vm_id, Span.FIVE_MINUTES)) == 28
    hours = [(at, amounts.usage) for at, amounts in values(ledger, binding.vm_id, Span.HOUR)]
    assert hours == usagelog.hours(ledger, binding.vm_id, MARCH)
    assert len(hours) == 3


def test_a_sum_that_another_program_counted_is_in_its_day_and_in_no_hour(ledger: Ledger, vm_id: int) -> None:
    usagelog.credit(ledger, vm_id, MARCH, NOON, 70)
    usagelog.credit(ledger, vm_id, MARCH, NOON, 7)
    assert values(ledger, vm_id, Span.HOUR) == values(ledger, vm_id, Span.FIVE_MINUTES) == []
    assert [amounts for _, amounts in values(ledger, vm_id, Span.DAY)] == [Amounts(77, 0)]
    assert values(ledger, vm_id, Span.DAY)[0][0] == datetime(2026, 3, 21, tzinfo=PRAGUE)
    assert usagelog.present(ledger) == {vm_id: Counters(77, 0)}
    age_wholly(ledger, vm_id, NOON + 3000 * DAY, KEEP | {Span.DAY: 50 * DAY})
    assert values(ledger, vm_id, Span.DAY) == []
    assert [amounts for _, amounts in values(ledger, vm_id, Span.MONTH)] == [Amounts(77, 0)]


def test_a_sum_that_another_program_counted_does_not_hide_the_values_that_are_kept(ledger: Ledger, vm_id: int) -> None:
    usagelog.credit(ledger, vm_id, MARCH, NOON, 70)
    assert history.finest(ledger, vm_id, MARCH, NOON + HOUR) is None
    count(ledger, vm_id, *every(Span.FIVE_MINUTES, NOON - HOUR, NOON))
    assert history.finest(ledger, vm_id, MARCH, NOON + HOUR) is Span.FIVE_MINUTES


def test_the_book_gets_a_sum_that_another_program_counted_by_the_day_and_period(ledger: Ledger, vm_id: int) -> None:
    usagelog.credit(ledger, vm_id, MARCH, NOON, 70)
    ((_, found),) = Documents("dom0-a", DAY).of(ledger, changes.after(ledger, "usage", 0, 1000))
    sums = {document["span"]: (document["start"], int(document["in_bytes"])) for document in found}
    assert sums == {"day": (utc("2026-03-21"), 70), "period": (MARCH, 70)}


# reading it


def test_longer_spans_are_the_sums_of_the_shorter_ones_in_them(ledger: Ledger, vm_id: int) -> None:
    count(ledger, vm_id, *every(Span.FIVE_MINUTES, NOON, NOON + 2 * HOUR), Cell(Span.HOUR, NOON, SPENT))
    hours = values(ledger, vm_id, Span.HOUR)
    assert [at for at, _ in hours] == [NOON, NOON + HOUR]
    assert hours[0][1] == Amounts(78 + 1, 156 + 2, 3, 4, 12 + 5)
    for span in (Span.DAY, Span.MONTH, Span.YEAR):
        ((_, amounts),) = values(ledger, vm_id, span)
        assert amounts == total(hours)


def test_days_months_and_years_begin_at_midnight_in_the_zone(ledger: Ledger, vm_id: int) -> None:
    before = datetime(2025, 12, 31, 23, 55, tzinfo=PRAGUE)
    count(ledger, vm_id, Cell(Span.FIVE_MINUTES, before, Amounts(1, 0)))
    count(ledger, vm_id, Cell(Span.FIVE_MINUTES, before + 5 * MINUTE, Amounts(2, 0)))
    new_year = datetime(2026, 1, 1, tzinfo=PRAGUE)
    old = {Span.DAY: datetime(2025, 12, 31, tzinfo=PRAGUE), Span.MONTH: datetime(2025, 12, 1, tzinfo=PRAGUE)}
    for span in (Span.DAY, Span.MONTH, Span.YEAR):
        begin = old.get(span, datetime(2025, 1, 1, tzinfo=PRAGUE))
        assert values(ledger, vm_id, span) == [(begin, Amounts(1, 0)), (new_year, Amounts(2, 0))]


def test_only_what_was_counted_in_the_wanted_time_is_read(ledger: Ledger, vm_id: int) -> None:
    count(ledger, vm_id, *every(Span.FIVE_MINUTES, NOON, NOON + HOUR))
    found = history.values(ledger, vm_id, Span.FIVE_MINUTES, NOON + 5 * MINUTE, NOON + 15 * MINUTE, PRAGUE)
    assert [amounts.in_bytes for _, amounts in found] == [2, 3]
    age_wholly(ledger, vm_id, NOON + 2 * DAY)
    assert history.values(ledger, vm_id, Span.FIVE_MINUTES, NOON + 5 * MINUTE, NOON + 15 * MINUTE, PRAGUE) == found


def test_the_shortest_span_that_has_everything_is_told(ledger: Ledger, vm_id: int) -> None:
    assert history.finest(ledger, vm_id, MARCH, NOON) is None
    count(ledger, vm_id, *every(Span.FIVE_MINUTES, NOON - HOUR, NOON))
    assert history.finest(ledger, vm_id, MARCH, NOON) is Span.FIVE_MINUTES
    count(ledger, vm_id, Cell(Span.HOUR, MARCH, SPENT))
    assert history.finest(ledger, vm_id, MARCH, NOON) is Span.HOUR
    assert history.finest(ledger, vm_id, MARCH + HOUR, NOON) is Span.FIVE_MINUTES


@pytest.mark.parametrize("zone", [PRAGUE, ZoneInfo("Pacific/Apia"), timezone(timedelta(hours=5, minutes=45))])
def test_one_span_begins_where_the_one_before_ends(zone: ZoneInfo) -> None:
    for span in Span:
        begin = history.begin_of(span, utc("2026-03-27 22:59"), zone)
        for _ in range(30):
            after = history.next_begin(span, begin)
            assert begin < after
            assert history.begin_of(span, after - timedelta(seconds=1), zone) == begin
            assert history.begin_of(span, after, zone) == after
            begin = after


# runs


def test_a_run_gives_back_what_it_was_given() -> None:
    given_ = [(n * 300, Amounts(n, 2**53 - n, n % 7, 0, 1)) for n in range(1, LENGTH)]
    run = Run(Span.FIVE_MINUTES, 0)
    run.add(given_)
    assert list(Run(Span.FIVE_MINUTES, 0, run.text()).values()) == given_


def test_a_run_of_an_idle_vm_takes_next_to_nothing() -> None:
    assert len(Run(Span.HOUR, 0).text()) < 100


@pytest.mark.parametrize(
    "text",
    ["", "no run", "a\u00e4", base64.b64encode(b"x").decode(), base64.b64encode(zlib.compress(bytes(80))).decode()],
)
def test_a_text_that_is_no_run_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Run(Span.HOUR, 0, text)


def test_a_text_that_says_it_is_huge_is_not_unpacked() -> None:
    with pytest.raises(ValueError, match="not a run of"):
        Run(Span.HOUR, 0, base64.b64encode(zlib.compress(bytes(10**8))).decode())


# ageing


def test_what_is_too_old_for_its_span_is_in_the_next_longer_one_and_no_byte_is_lost(ledger: Ledger, vm_id: int) -> None:
    begin = NOON - 500 * DAY
    for day in range(0, 500, 25):
        count(ledger, vm_id, *every(Span.FIVE_MINUTES, begin + day * DAY, begin + day * DAY + 2 * HOUR))
    days, months, years = (values(ledger, vm_id, span) for span in (Span.DAY, Span.MONTH, Span.YEAR))
    age_wholly(ledger, vm_id, NOON)
    assert values(ledger, vm_id, Span.DAY) == days
    assert values(ledger, vm_id, Span.MONTH) == months
    assert values(ledger, vm_id, Span.YEAR) == years
    fine = [at for at, _ in values(ledger, vm_id, Span.FIVE_MINUTES)]
    assert NOON - 36 * DAY <= fine[0] < NOON - 20 * DAY
    by_hour = [at for at, _ in values(ledger, vm_id, Span.HOUR)]
    assert NOON - 413 * DAY <= by_hour[0] < NOON - 380 * DAY
    assert history.finest(ledger, vm_id, begin - DAY, begin + DAY) is Span.DAY


def test_values_that_are_kept_stay_as_they_were(ledger: Ledger, vm_id: int) -> None:
    count(ledger, vm_id, *every(Span.FIVE_MINUTES, NOON - 20 * DAY, NOON))
    before = values(ledger, vm_id, Span.FIVE_MINUTES)
    age_wholly(ledger, vm_id, NOON)
    assert values(ledger, vm_id, Span.FIVE_MINUTES) == before
    rows = ledger.rows("SELECT count(*) FROM history")[0][0]
    assert rows == 12 * 12  # those of the present day
    assert age_wholly(ledger, vm_id, NOON) == 1


def test_bytes_that_come_late_are_added_to_a_run(ledger: Ledger, vm_id: int) -> None:
    old = NOON - 3 * DAY
    count(ledger, vm_id, Cell(Span.FIVE_MINUTES, old, SPENT))
    age_wholly(ledger, vm_id, NOON)
    count(ledger, vm_id, Cell(Span.FIVE_MINUTES, old, SPENT))
    assert values(ledger, vm_id, Span.FIVE_MINUTES) == [(old, SPENT.plus(SPENT))]
    age_wholly(ledger, vm_id, NOON)
    assert values(ledger, vm_id, Span.FIVE_MINUTES) == [(old, SPENT.plus(SPENT))]
    assert ledger.rows("SELECT count(*) FROM history")[0][0] == 0


def test_each_span_has_its_own_retention(ledger: Ledger, vm_id: int) -> None:
    section = LedgerSection(keep_minutes=1, keep_hours=20, keep_days=60, keep_months=400, keep_years=1000)
    count(ledger, vm_id, *(Cell(Span.HOUR, NOON - day * DAY, Amounts(1, 0)) for day in range(1, 1900)))
    age_wholly(ledger, vm_id, NOON, section.keep_spans)
    oldest = {span: NOON - values(ledger, vm_id, span)[0][0] for span in (Span.HOUR, Span.DAY, Span.MONTH)}
    assert 20 * DAY <= oldest[Span.HOUR] <= 33 * DAY
    assert 60 * DAY <= oldest[Span.DAY] <= 63 * DAY
    assert 370 * DAY <= oldest[Span.MONTH] <= 465 * DAY
    years = values(ledger, vm_id, Span.YEAR)
    assert [at.year for at, _ in years] == [2023, 2024, 2025, 2026]
    assert total(years[1:]) == Amounts(366 + 365 + 79, 0)


def test_a_round_goes_over_all_vms_a_few_at_a_time_and_again_the_next_day(ledger: Ledger) -> None:
    ids = [add_vm(ledger, f"vm{n}", MARCH, period_start=MARCH) for n in range(3)]
    retired = add_vm(ledger, "gone", MARCH, period_start=MARCH, retired_at=NOON)
    for id_ in (*ids, retired):
        count(ledger, id_, Cell(Span.FIVE_MINUTES, NOON - 2 * DAY, SPENT))
    rounds = Ageing(ledger)

    def left() -> int:
        found: int = ledger.rows("SELECT count(*) FROM history")[0][0]
        return found

    for expected in (3, 2, 1, 0, 0):
        rounds.work(NOON, KEEP, PRAGUE, seconds=0)
        assert left() == expected
    count(ledger, ids[0], Cell(Span.FIVE_MINUTES, NOON - 2 * DAY, SPENT))
    rounds.work(NOON, KEEP, PRAGUE)
    assert left() == 1
    rounds.work(NOON + DAY, KEEP, PRAGUE)
    assert left() == 0


# usage, folded


def use(ledger: Ledger, vm_id: int, since: datetime, hours: int) -> None:
    shares = [(since + n * HOUR).replace(minute=0) for n in range(hours)]
    pending = tuple((vm_id, Share(at.replace(day=1, hour=0), at, 10, 1, 1)) for at in shares)
    usagelog.commit(ledger, Pending((), pending), Alive(NOON, 1.0, BOOT))


def test_folded_usage_has_the_same_sums_for_every_period(ledger: Ledger, vm_id: int) -> None:
    use(ledger, vm_id, utc("2025-01-01"), 24 * 444)
    before = usagelog.periods(ledger, vm_id)
    age_wholly(ledger, vm_id, NOON)
    assert usagelog.periods(ledger, vm_id) == before
    texts = [row[0] for row in ledger.rows("SELECT hour FROM usage ORDER BY hour")]
    hours = [text for text in texts if folding.is_hour(text)]
    assert hours[0] == "2026-02-14T12:00:00.000000+00:00"  # 35 days ago
    assert len(texts) - len(hours) < 400 + 14
    assert usagelog.of_period(ledger, vm_id, utc("2025-01-01")) == Counters(10 * 24 * 31, 24 * 31)


def test_usage_of_the_present_period_is_not_folded(ledger: Ledger, vm_id: int) -> None:
    use(ledger, vm_id, MARCH, 24)
    age_wholly(ledger, vm_id, NOON + 300 * DAY)
    assert ledger.rows("SELECT count(*) FROM usage")[0][0] == 24


def test_a_new_reset_day_still_moves_the_hours_of_the_last_month(ledger: Ledger, vm_id: int) -> None:
    use(ledger, vm_id, utc("2026-02-01"), 24 * 48)
    age_wholly(ledger, vm_id, NOON)
    usagelog.refile(ledger, vm_id, utc("2026-02-22"), "22@UTC")
    assert usagelog.of_period(ledger, vm_id, utc("2026-02-22")) == Counters(10 * 24 * 27, 24 * 27)


def test_folding_twice_changes_nothing_more(ledger: Ledger, vm_id: int) -> None:
    use(ledger, vm_id, utc("2025-12-01"), 24)
    age_wholly(ledger, vm_id, NOON)
    rows = [tuple(row) for row in ledger.rows("SELECT * FROM usage")]
    age_wholly(ledger, vm_id, NOON)
    assert [tuple(row) for row in ledger.rows("SELECT * FROM usage")] == rows


# clocks, damage, earlier ledgers


def test_history_by_a_wrong_clock_moves_to_the_present_when_the_usage_does(ledger: Ledger) -> None:
    vm = ledger.meet("web1", NOON)
    wrong = utc("1970-01-01 01:00")
    roster = Roster(ledger, Settings())
    roster.load(Moment(wrong, trusted=False))
    count(ledger, vm.id, Cell(Span.FIVE_MINUTES, wrong, SPENT))
    roster.load(Moment(NOON, trusted=True))
    assert history.values(ledger, vm.id, Span.FIVE_MINUTES, utc("1970-01-01"), NOON + HOUR, PRAGUE) == [(NOON, SPENT)]


def test_a_damaged_run_is_set_aside_and_the_others_stay(ledger: Ledger, vm_id: int, tmp_path: Path) -> None:
    for days in (2, 3):
        count(ledger, vm_id, Cell(Span.FIVE_MINUTES, NOON - days * DAY, SPENT))
    age_wholly(ledger, vm_id, NOON)
    with ledger.transaction() as db:
        db.execute("UPDATE history_run SET amounts = 'nonsense' WHERE start = (SELECT min(start) FROM history_run)")
    with pytest.raises(CorruptLedgerError):
        values(ledger, vm_id, Span.FIVE_MINUTES)
    sieve = Sieve("2026-03-21T12:00:00.000000+00:00")
    ledger.lend(lambda db: sift.sift(db, sieve, 10))
    assert len(sieve.aside) == 1
    assert values(ledger, vm_id, Span.FIVE_MINUTES) == [(NOON - 2 * DAY, SPENT)]


def test_what_an_older_daemon_counted_after_the_upgrade_is_added_once(ledger: Ledger, vm_id: int) -> None:
    long_ago, hour = NOON - 9 * HOUR, NOON - HOUR
    count(ledger, vm_id, Cell(Span.HOUR, hour, Amounts(5, 5)))
    shares = tuple((vm_id, Share(MARCH, at, 12, 5, 0)) for at in (long_ago, hour, NOON))
    usagelog.commit(ledger, Pending((), shares), Alive(NOON, 1.0, BOOT))
    usagelog.credit(ledger, vm_id, MARCH, NOON, 70)
    history.catch_up(ledger)
    added = [(hour, Amounts(12, 5)), (NOON, Amounts(12, 5))]
    assert values(ledger, vm_id, Span.HOUR) == added
    usagelog.commit(ledger, Pending((), shares), Alive(NOON, 1.0, BOOT))
    history.catch_up(ledger)
    assert values(ledger, vm_id, Span.HOUR) == added


def test_folded_hours_are_pushed_to_the_book_as_days_and_periods_only(ledger: Ledger, vm_id: int) -> None:
    use(ledger, vm_id, utc("2026-01-01"), 48)
    age_wholly(ledger, vm_id, NOON)
    chunk = changes.after(ledger, "usage", 0, 1000)
    ((_, found),) = Documents("dom0-a", DAY).of(ledger, chunk)
    spans = sorted((document["span"], document["start"], int(document["in_bytes"])) for document in found)
    assert spans == [
        ("day", utc("2026-01-01"), 240),
        ("day", utc("2026-01-02"), 240),
        ("period", utc("2026-01-01"), 480),
    ]


def test_an_older_ledger_s_usage_by_the_hour_is_the_start_of_the_history(tmp_path: Path) -> None:
    path = tmp_path / "older.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for script in schema.MIGRATIONS[:1]:
            db.executescript(script)
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO vm (name, found_at, rev) VALUES ('web1', '2026-03-01T00:00:00.000000+00:00', 1)")
        for period, hour, amount in (
            ("2026-02-15", "2026-03-01T10", 5),
            ("2026-03-01", "2026-03-01T10", 7),
            ("2026-03-01", "2026-03-01T11", 1),
            ("2026-03-01", "damaged", 1),
        ):
            times = f"{period}T00:00:00.000000+00:00", f"{hour}:00:00.000000+00:00"
            db.execute("INSERT INTO usage VALUES (1, ?, ?, ?, 2, 0, 1)", (*times, amount))
    with closing(Ledger.open(path)) as ledger:
        assert values(ledger, 1, Span.HOUR) == [
            (utc("2026-03-01 10:00"), Amounts(12, 4)),
            (utc("2026-03-01 11:00"), Amounts(1, 2)),
        ]

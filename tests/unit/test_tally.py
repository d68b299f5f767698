"""The tally: readings are credited to cells of time and to periods, each byte once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clock import utc
from tests.support.tallies import NOON, SECOND, binding, counted, following, for_every_vm, monthly
from xenbw.accounting import HOUR, Share, Tally, divide, hour_of
from xenbw.model import ZERO, Amounts, Counters, Mark, Period, Reading

BYTES = st.integers(0, 2**63)
COUNTERS = st.builds(Counters, BYTES, BYTES)


def total(shares: list[Share]) -> Counters:
    return Counters(sum(share.in_bytes for share in shares), sum(share.out_bytes for share in shares))


# over hours and periods


def test_an_ordinary_reading_is_counted_in_its_hour_and_not_estimated() -> None:
    shares = list(divide(Counters(70, 7), NOON, NOON + 10 * SECOND, monthly))
    assert shares == [Share(monthly(NOON).start, NOON, 70, 7, 0)]


def test_a_reading_across_the_hour_is_divided_by_time_but_not_marked_as_estimated() -> None:
    shares = list(divide(Counters(100, 11), NOON - SECOND, NOON + 3 * SECOND, monthly))
    start = monthly(NOON).start
    assert shares == [Share(start, NOON - HOUR, 25, 2, 0), Share(start, NOON, 75, 9, 0)]


def test_bytes_divided_across_a_long_gap_are_marked_as_estimated() -> None:
    shares = list(divide(Counters(60, 0), NOON - HOUR / 2, NOON + HOUR, monthly))
    assert [(share.hour, share.in_bytes, share.divided_bytes) for share in shares] == [
        (NOON - HOUR, 20, 20),
        (NOON, 40, 40),
    ]


def test_a_period_that_begins_within_the_hour_divides_it() -> None:
    boundary = utc("2026-03-31 18:30")
    shares = list(divide(Counters(30, 0), boundary - 10 * SECOND, boundary + 20 * SECOND, monthly))
    hour = utc("2026-03-31 18:00")
    assert shares == [
        Share(monthly(boundary - SECOND).start, hour, 10, 0, 0),
        Share(boundary, hour, 20, 0, 0),
    ]


def test_a_reading_taken_exactly_at_the_boundary_belongs_to_the_period_before() -> None:
    boundary = utc("2026-03-31 18:30")
    shares = list(divide(Counters(30, 3), boundary - SECOND, boundary, monthly))
    assert [share.period_start for share in shares] == [monthly(boundary - SECOND).start]
    assert total(shares) == Counters(30, 3)


@pytest.mark.parametrize("back", [timedelta(0), SECOND, timedelta(days=400)])
def test_if_the_clock_stood_still_or_went_back_all_bytes_count_in_the_present_hour(back: timedelta) -> None:
    shares = list(divide(Counters(30, 3), NOON + back, NOON, monthly))
    assert shares == [Share(monthly(NOON).start, NOON, 30, 3, 0)]


def test_bytes_are_divided_into_the_hours_of_little_more_than_a_year_at_most() -> None:
    shares = list(divide(Counters(10**9, 1), utc("1970-01-01"), NOON, monthly))
    assert total(shares) == Counters(10**9, 1)
    assert len(shares) <= 400 * 24 + 14


def test_no_bytes_are_spread_over_the_years_by_which_a_clock_was_set() -> None:
    tally = Tally()
    tally.follow(binding(1, last_at=NOON - HOUR), NOON - HOUR)
    tally.shift(timedelta(days=20_000))
    assert counted(tally, NOON + timedelta(days=20_000)).keys() == {NOON + timedelta(days=20_000) - HOUR}


def test_no_bytes_are_spread_over_hours_before_the_host_booted() -> None:
    tally = Tally()
    tally.follow(binding(1, last_at=utc("1970-01-01")), utc("1970-01-01"))
    tally.booted_at = NOON - 2 * HOUR
    assert counted(tally, NOON) == {NOON - 2 * HOUR: 3600, NOON - HOUR: 3600}


@given(
    COUNTERS,
    st.timedeltas(timedelta(days=-70), timedelta(days=70)),
    st.timedeltas(timedelta(0), timedelta(days=70)) | st.timedeltas(timedelta(0), timedelta(hours=3)),
)
def test_a_division_has_an_exact_sum_and_every_share_lies_between_the_readings(
    amount: Counters, offset: timedelta, gap: timedelta
) -> None:
    since, until = NOON + offset, NOON + offset + gap
    shares = list(divide(amount, since, until, monthly))
    assert total(shares) == amount
    assert all(min(share.in_bytes, share.out_bytes) >= 0 for share in shares)
    assert all(hour_of(since) <= share.hour <= until for share in shares)
    assert all(monthly(since).start <= share.period_start <= until for share in shares)
    assert len({(share.period_start, share.hour) for share in shares}) == len(shares)


# the tally


def credit(
    tally: Tally,
    until: datetime,
    period_of: Callable[[int, datetime], Period] = for_every_vm,
    **raw: tuple[int, int],
) -> set[int]:
    readings = {int(name.removeprefix("vif")): Reading(Counters(*value)) for name, value in raw.items()}
    return tally.credit(readings, until, period_of)


def test_a_vms_interfaces_add_up() -> None:
    tally = following(binding(1), binding(2))
    assert credit(tally, NOON + SECOND, vif1=(10, 1), vif2=(5, 2)) == {1}
    assert tally.usage[1] == Counters(15, 3)


def test_a_binding_goes_on_from_its_last_reading() -> None:
    tally = following(binding(1, mark=Mark(Counters(1000, 500)), counted=Amounts(300, 200)))
    credit(tally, NOON + SECOND, vif1=(1010, 501))
    (pending,) = tally.pending().bindings
    assert pending == (1, Amounts(310, 201), Mark(Counters(1010, 501)), NOON + SECOND)


def test_the_bytes_of_each_interface_and_period_are_pending_besides_the_vm_s_hours() -> None:
    boundary = utc("2026-03-31 18:30")
    tally = following(binding(1), binding(2), since=boundary - 10 * SECOND)
    credit(tally, boundary - SECOND, vif1=(10, 1), vif2=(5, 2))
    credit(tally, boundary + SECOND, vif1=(16, 3), vif2=(5, 2))
    before, after = monthly(boundary - SECOND).start, boundary
    assert sorted(tally.pending().portions) == [
        (1, before, Counters(13, 2)),
        (1, after, Counters(3, 1)),
        (2, before, Counters(5, 2)),
    ]
    tally.settled()
    assert tally.pending().portions == ()


def test_an_interface_that_stands_still_changes_nothing() -> None:
    tally = following(binding(1, mark=Mark(Counters(1000, 500))))
    assert credit(tally, NOON + SECOND, vif1=(1000, 500)) == set()
    assert not tally.pending()


def test_an_interface_without_a_reading_does_not_change() -> None:
    tally = following(binding(1), binding(2))
    credit(tally, NOON + SECOND, vif2=(5, 5))
    credit(tally, NOON + 2 * HOUR, vif1=(70, 0), vif2=(5, 5))
    hours = {share.hour: share.in_bytes for _, share in tally.pending().shares}
    assert hours == {NOON: 5 + 35, NOON + HOUR: 35}


def test_bytes_credited_to_a_forgotten_binding_are_still_written() -> None:
    tally = following(binding(1))
    credit(tally, NOON + SECOND, vif1=(10, 1))
    tally.forget(1)
    assert credit(tally, NOON + 2 * SECOND, vif1=(99, 9)) == set()
    assert [counted for _, counted, _, _ in tally.pending().bindings] == [Amounts(10, 1)]
    assert total([share for _, share in tally.pending().shares]) == Counters(10, 1)


def test_written_bytes_are_no_longer_pending() -> None:
    tally = following(binding(1))
    credit(tally, NOON + SECOND, vif1=(10, 1))
    tally.settled()
    assert not tally.pending()
    assert tally.usage[1] == Counters(10, 1)


def test_bytes_after_the_boundary_count_when_their_period_begins() -> None:
    boundary = utc("2026-03-31 18:30")
    tally = following(binding(1, last_at=boundary - 10 * SECOND), since=boundary - 10 * SECOND)
    credit(tally, boundary + 10 * SECOND, vif1=(20, 2))
    assert tally.usage[1] == Counters(10, 1)
    tally.open_period(1, boundary)
    assert tally.usage[1] == Counters(10, 1)


def test_every_interfaces_bytes_count_when_a_gap_spans_several_boundaries() -> None:
    since, until = utc("2026-03-30"), utc("2026-05-03")
    tally = following(binding(1, last_at=since), binding(2, last_at=since), since=since)
    credit(tally, until, vif1=(34_000, 0), vif2=(34_000, 0))
    tally.open_period(1, monthly(until).start)
    placed = [share for _, share in tally.pending().shares if share.period_start == monthly(until).start]
    assert tally.usage[1] == total(placed)
    assert tally.usage[1].in_bytes > 4000


def test_a_period_without_counted_bytes_begins_empty() -> None:
    tally = following(binding(1))
    credit(tally, NOON + SECOND, vif1=(10, 1))
    tally.open_period(1, monthly(NOON).end)
    assert tally.usage[1] == ZERO


def test_time_before_a_binding_began_is_not_charged_to_it() -> None:
    tally = following(binding(1, last_at=NOON - 5 * HOUR, started_at=NOON - 5 * HOUR), since=NOON - HOUR)
    credit(tally, NOON, vif1=(60, 0))
    assert {share.hour for _, share in tally.pending().shares} == {NOON - HOUR}

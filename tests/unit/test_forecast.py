"""The forecast: when a VM will be past its limit, by the hours of the last seven days."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.support.clock import utc
from xenbw.accounting import HOUR
from xenbw.model import Allowance, Count, Counters
from xenbw.report.forecast import crossing, expected

NOW = utc("2026-11-20 12:00")
END = utc("2026-12-01")
UTC_ZONE, PRAGUE = ZoneInfo("UTC"), ZoneInfo("Europe/Prague")
DAY = timedelta(days=1)


def steady(amount: int, hours: int = 168, until: datetime = NOW) -> list[tuple[datetime, Counters]]:
    return [(until - n * HOUR, Counters(amount, amount // 2)) for n in range(hours, 0, -1)]


def crosses(
    limit: int | None, used: int, hours: list[tuple[datetime, Counters]], count: Count = Count.IN, now: datetime = NOW
) -> datetime | None:
    return crossing(Allowance(limit, count), Counters(used, 0), hours, now, END, UTC_ZONE)


def test_steady_usage_crosses_when_the_rest_is_used() -> None:
    assert crosses(1500, 500, steady(100)) == NOW + 10 * HOUR


def test_the_moment_within_the_hour_is_told_and_the_present_hour_counts_from_now_on() -> None:
    now = NOW + HOUR / 4
    assert crosses(550, 500, steady(100), now=now) == now + HOUR / 2


def test_the_usage_at_the_end_is_what_the_hours_up_to_it_bring() -> None:
    hours = int((END - NOW) / HOUR)
    assert expected(Counters(500, 7), steady(100), NOW, END, UTC_ZONE) == Counters(500 + 100 * hours, 7 + 50 * hours)
    assert expected(Counters(500, 7), steady(100), NOW, NOW + HOUR / 4, UTC_ZONE) == Counters(525, 19)
    assert expected(Counters(500, 7), [], NOW, END, UTC_ZONE) is None


def test_no_moment_after_the_end_of_the_period_is_told() -> None:
    left = int((END - NOW) / HOUR) * 100
    assert crosses(left, 0, steady(100)) is None
    found = crosses(left - 50, 0, steady(100))
    assert found is not None
    assert END - HOUR < found < END


def test_a_sum_that_another_program_counted_is_no_hour_that_comes_again() -> None:
    lump = (NOW - 2 * DAY + timedelta(microseconds=1), Counters(10**6, 0))
    hours = sorted([*steady(100, 24), lump])
    assert crosses(1500, 500, hours) == crosses(1500, 500, steady(100, 24)) == NOW + 10 * HOUR
    assert crosses(1500, 500, [lump]) is None
    assert expected(Counters(500, 7), [lump], NOW, END, UTC_ZONE) is None


@pytest.mark.parametrize(("limit", "used"), [(None, 0), (100, 101)])
def test_without_a_limit_or_past_it_there_is_no_forecast(limit: int | None, used: int) -> None:
    assert crosses(limit, used, steady(100)) is None


def test_a_vm_that_used_nothing_in_seven_days_has_no_forecast() -> None:
    assert crosses(100, 50, []) is None
    assert crosses(100, 50, steady(100, 24, until=NOW - 8 * DAY)) is None


def test_each_hour_of_the_day_brings_what_it_brought_before() -> None:
    # 100 bytes between 14:00 and 15:00 each day, nothing else.
    past = [(utc(f"2026-11-{day} 14:00"), Counters(100, 0)) for day in range(14, 20)]
    assert crosses(250, 0, past) == utc("2026-11-22 14:00") + HOUR / 2


def test_hours_of_the_day_are_those_of_the_zone_across_a_change_to_daylight_saving() -> None:
    now, end = utc("2026-03-28 12:00"), utc("2026-04-05")
    past = [(utc(f"2026-03-{day} 13:00"), Counters(100, 0)) for day in range(21, 28)]  # 14:00 in Prague
    found = crossing(Allowance(250, Count.IN), Counters(0, 0), past, now, end, PRAGUE)
    assert found == utc("2026-03-30 12:30")


def test_hours_without_traffic_make_the_average_smaller() -> None:
    past = [(NOW - 4 * HOUR, Counters(400, 0))]
    # Four hours were seen, so one of the other hours brings 100.
    assert crosses(600, 500, past) == NOW + HOUR


def test_the_present_hour_is_not_over_and_tells_nothing() -> None:
    assert crosses(10**6, 0, [(NOW, Counters(10**9, 0))], now=NOW + HOUR / 2) is None


@pytest.mark.parametrize(
    ("count", "after"), [(Count.TOTAL, 1000 / 150), (Count.IN, 10), (Count.OUT, 20), (Count.MAX, 10)]
)
def test_it_goes_by_the_bytes_that_the_allowance_counts(count: Count, after: float) -> None:
    found = crossing(Allowance(1000, count), Counters(0, 0), steady(100), NOW, END, UTC_ZONE)
    assert found is not None
    assert abs(found - (NOW + after * HOUR)) < timedelta(minutes=2)

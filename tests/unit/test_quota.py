from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock import utc
from xenbw.model import VM, Action, Allowance, Cause, Count, Counters, Period, State
from xenbw.quota import ceiling, judge, period_at, stand, used_bytes
from xenbw.units import format_size

ZONES = st.sampled_from(
    [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Havana",  # clocks go forward at midnight: that midnight does not exist; and back to midnight
        "Asia/Beirut",  # the same
        "Africa/Cairo",
        "America/Santiago",
        "Asia/Kolkata",  # :30
        "Asia/Kathmandu",  # :45
        "Australia/Lord_Howe",  # half an hour of daylight saving
        "Pacific/Chatham",
        "Pacific/Kiritimati",  # +14
        "Pacific/Pago_Pago",  # -11
        "Africa/Casablanca",  # daylight saving follows the moon
    ]
).map(ZoneInfo)
DAYS = st.integers(1, 31)
MOMENTS = st.timedeltas(timedelta(0), timedelta(days=6000)).map(lambda passed: utc("2020-01-01") + passed)


def starts(first: str, reset_day: int, zone: str, count: int) -> list[str]:
    """The starts of the periods from the one that contains `first`, in local time."""
    found, moment = [], utc(first)
    for _ in range(count):
        period = period_at(moment, reset_day, ZoneInfo(zone))
        found.append(period.start.astimezone(ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M"))
        moment = period.end
    return found


# periods


def test_the_31st_of_a_short_month_is_its_last_day() -> None:
    assert starts("2026-01-31", 31, "UTC", 5) == [
        "2026-01-31 00:00",
        "2026-02-28 00:00",
        "2026-03-31 00:00",
        "2026-04-30 00:00",
        "2026-05-31 00:00",
    ]


@pytest.mark.parametrize("reset_day", [29, 30, 31])
def test_february_has_its_29th_in_a_leap_year(reset_day: int) -> None:
    assert starts("2028-02-29 12:00", reset_day, "UTC", 1) == ["2028-02-29 00:00"]
    assert starts("2027-02-28 12:00", reset_day, "UTC", 1) == ["2027-02-28 00:00"]


def test_a_period_crosses_the_end_of_the_year() -> None:
    assert period_at(utc("2027-01-03"), 15, ZoneInfo("UTC")) == Period(utc("2026-12-15"), utc("2027-01-15"))
    assert period_at(utc("2026-12-31 23:59"), 15, ZoneInfo("UTC")) == Period(utc("2026-12-15"), utc("2027-01-15"))
    assert period_at(utc("2026-12-31 23:59"), 1, ZoneInfo("UTC")) == Period(utc("2026-12-01"), utc("2027-01-01"))


def test_a_period_begins_at_midnight_of_its_zone_in_winter_and_in_summer() -> None:
    assert period_at(utc("2026-04-01"), 15, ZoneInfo("Europe/Berlin")) == Period(
        utc("2026-03-14 23:00"), utc("2026-04-14 22:00")
    )


@pytest.mark.parametrize(
    ("zone", "boundary"),
    [
        ("Asia/Kolkata", "2026-03-31 18:30"),
        ("Asia/Kathmandu", "2026-03-31 18:15"),
        ("Pacific/Chatham", "2026-03-31 10:15"),
    ],
)
def test_a_zone_may_be_off_by_parts_of_an_hour(zone: str, boundary: str) -> None:
    assert period_at(utc(boundary), 1, ZoneInfo(zone)).start == utc(boundary)
    before = utc(boundary) - timedelta(microseconds=1)
    assert period_at(before, 1, ZoneInfo(zone)).end == utc(boundary)


@pytest.mark.parametrize(
    ("zone", "day", "boundary"),
    [("America/Havana", 10, "2024-03-10 05:00"), ("Asia/Beirut", 31, "2024-03-30 22:00")],
)
def test_a_midnight_that_does_not_exist_is_the_first_instant_after_the_gap(zone: str, day: int, boundary: str) -> None:
    start = period_at(utc("2024-03-31"), day, ZoneInfo(zone)).start
    assert start == utc(boundary)
    assert start.astimezone(ZoneInfo(zone)).strftime("%d %H:%M") == f"{day:02} 01:00"


def test_if_a_midnight_comes_twice_the_first_counts() -> None:
    havana = ZoneInfo("America/Havana")
    first = utc("2024-11-03 04:00")
    assert first.astimezone(havana).strftime("%d %H:%M") == "03 00:00"
    assert (first + timedelta(hours=1)).astimezone(havana).strftime("%d %H:%M") == "03 00:00"
    assert period_at(first + timedelta(minutes=90), 3, havana).start == first


@settings(max_examples=300)
@given(MOMENTS, DAYS, ZONES)
def test_every_moment_lies_in_its_period_and_periods_follow_each_other_without_gap_or_overlap(
    moment: datetime, reset_day: int, zone: ZoneInfo
) -> None:
    period = period_at(moment, reset_day, zone)
    assert period.start <= moment < period.end
    assert period_at(period.start, reset_day, zone) == period
    assert period_at(period.end - timedelta(microseconds=1), reset_day, zone) == period
    assert period_at(period.end, reset_day, zone).start == period.end


@settings(max_examples=300)
@given(MOMENTS, DAYS, ZONES)
def test_a_period_is_a_month_long(moment: datetime, reset_day: int, zone: ZoneInfo) -> None:
    period = period_at(moment, reset_day, zone)
    length = period.end.astimezone(zone).date() - period.start.astimezone(zone).date()
    assert 27 <= length.days <= 32


# verdicts


@pytest.mark.parametrize(("count", "used"), [("total", 700), ("in", 500), ("out", 200), ("max", 500)])
def test_an_allowance_counts_in_out_both_or_the_larger(count: str, used: int) -> None:
    assert used_bytes(Count(count), Counters(500, 200)) == used


@pytest.mark.parametrize(
    ("used", "state"),
    [
        (0, State.OK),
        (799, State.OK),
        (800, State.WARNED),
        (1000, State.WARNED),
        (1001, State.OVER),
    ],
)
def test_a_vm_is_warned_at_its_percent_and_over_only_beyond_its_limit(used: int, state: State) -> None:
    verdict = judge(Allowance(limit_bytes=1000, count=Count.OUT), Counters(5000, used))
    assert (verdict.state, verdict.used_bytes, verdict.limit_bytes) == (state, used, 1000)


def test_a_limit_that_the_percent_does_not_divide_warns_at_the_first_byte_past_it() -> None:
    allowance = Allowance(limit_bytes=999, count=Count.IN, thresholds=(80,))  # 799.2
    assert judge(allowance, Counters(799, 0)).state is State.OK
    assert judge(allowance, Counters(800, 0)).state is State.WARNED


def test_the_reason_names_what_was_used_of_what_and_how_it_is_counted() -> None:
    verdict = judge(Allowance(limit_bytes=500 * 10**9, count=Count.MAX), Counters(501 * 10**9, 7))
    assert verdict.reason == ("used 501 GB of 500 GB (the larger of in and out): over its allowance by 1.00 GB")


def test_without_a_limit_no_vm_is_over() -> None:
    assert judge(Allowance(), Counters(2**62, 2**62)).state is State.UNLIMITED


THRESHOLDS = st.sets(st.integers(1, 100), min_size=1, max_size=4).map(lambda found: tuple(sorted(found)))


@given(
    st.integers(1, 2**63 - 1),
    THRESHOLDS,
    st.sampled_from([State.OK, State.WARNED, State.OVER]),
    st.integers(0, 2**63 - 1) | st.integers(-2, 2),
)
def test_below_its_ceiling_no_state_can_have_got_worse(
    limit: int, thresholds: tuple[int, ...], state: State, used: int
) -> None:
    allowance = Allowance(limit_bytes=limit, count=Count.IN, thresholds=thresholds)
    bound = ceiling(allowance, state, 0 if state is State.OK else thresholds[-1])
    amount = used if used > 2 or bound == float("inf") else max(0, int(bound) + used)
    order = [State.OK, State.WARNED, State.OVER]
    now = judge(allowance, Counters(max(0, amount), 0)).state
    if amount < bound:
        assert order.index(now) <= order.index(state)
    else:
        assert order.index(now) > order.index(state)


# standings

PERIOD = Period(utc("2026-03-01"), utc("2026-04-01"))
ALLOWANCE = Allowance(limit_bytes=1000)
OVER, FINE = Counters(1001, 0), Counters(1, 0)


def vm(**facts: object) -> VM:
    return VM(id=1, name="web1", found_at=utc("2026-03-01"), **facts)  # type: ignore[arg-type]  # test shorthand


def test_a_vm_over_its_allowance_is_blocked() -> None:
    standing = stand(vm(), ALLOWANCE, True, OVER, PERIOD)
    assert (standing.state, standing.block) == (State.OVER, Cause.QUOTA)


@pytest.mark.parametrize("usage", [OVER, FINE])
def test_a_block_by_the_admin_stays_whatever_the_usage_and_the_lift(usage: Counters) -> None:
    blocked = vm(blocked_reason="unpaid", lifted_until=PERIOD.end)
    standing = stand(blocked, ALLOWANCE, False, usage, PERIOD)
    assert (standing.state, standing.block, standing.reason) == (State.BLOCKED, Cause.ADMIN, "unpaid")


def test_a_block_by_the_admin_without_a_reason_still_blocks() -> None:
    assert stand(vm(blocked_reason=""), ALLOWANCE, True, FINE, PERIOD).block is Cause.ADMIN


def test_a_lift_is_valid_until_the_end_of_its_period() -> None:
    lifted = vm(lifted_until=PERIOD.end)
    assert stand(lifted, ALLOWANCE, True, OVER, PERIOD).state is State.EXEMPT
    assert stand(lifted, ALLOWANCE, True, OVER, PERIOD).block is None
    following = Period(PERIOD.end, utc("2026-05-01"))
    assert stand(lifted, ALLOWANCE, True, OVER, following).block is Cause.QUOTA


def test_a_lift_given_for_a_shorter_period_does_not_stretch_with_a_moved_reset_day() -> None:
    lifted = vm(lifted_until=utc("2026-03-25"))
    assert stand(lifted, ALLOWANCE, True, OVER, PERIOD).block is Cause.QUOTA


def test_a_vm_that_is_only_metered_or_only_warned_is_over_but_not_blocked() -> None:
    metered = stand(vm(), ALLOWANCE, False, OVER, PERIOD)
    warned = stand(vm(), Allowance(limit_bytes=1000, action=Action.WARN), True, OVER, PERIOD)
    assert [(standing.state, standing.block) for standing in (metered, warned)] == [(State.OVER, None)] * 2


@given(st.integers(0, 10**18))
def test_every_reason_shows_the_usage_that_led_to_it(used: int) -> None:
    assert format_size(used) in judge(ALLOWANCE, Counters(used, 0)).reason

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clock import utc
from xenbw.accounting import HOUR, Share, Tally, advance, delta, divide, hour_of
from xenbw.model import NOTHING, UNREAD, ZERO, Amounts, Binding, Counters, Kind, Mark, Period, Reading

NOON = utc("2026-03-10 12:00")
SECOND = timedelta(seconds=1)
BYTES = st.integers(0, 2**63)
COUNTERS = st.builds(Counters, BYTES, BYTES)


def monthly(moment: datetime) -> Period:
    """Periods that begin at 18:30 UTC on the last day of the month before, as in Kolkata."""
    shifted = moment + timedelta(hours=5, minutes=30)
    start = shifted.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (start + timedelta(days=32)).replace(day=1)
    return Period(start - timedelta(hours=5, minutes=30), following - timedelta(hours=5, minutes=30))


def for_every_vm(_vm_id: int, moment: datetime) -> Period:
    return monthly(moment)


def binding(number: int = 1, **facts: object) -> Binding:
    known = {"vm_id": 1, "boot_id": "b", "domid": number, "devid": 0, "kind": Kind.VIF, "ifindex": number}
    known |= {"interface": f"vif{number}.0", "started_at": NOON, "last_at": NOON, **facts}
    return Binding(id=number, **known)  # type: ignore[arg-type]  # test shorthand


def total(shares: list[Share]) -> Counters:
    return Counters(sum(share.in_bytes for share in shares), sum(share.out_bytes for share in shares))


# between two readings


def test_the_bytes_that_passed_are_the_difference_of_two_readings() -> None:
    assert delta(Counters(100, 10), Counters(150, 10)) == Counters(50, 0)


@pytest.mark.parametrize("now", [Counters(7, 3), Counters(0, 20), Counters(200, 9)])
def test_if_one_counter_fell_both_started_again_from_zero(now: Counters) -> None:
    assert delta(Counters(100, 10), now) == now


def test_no_counter_wraps() -> None:
    assert delta(Counters(2**32 - 1, 2**64 - 1), Counters(5, 5)) == Counters(5, 5)


# our own counters together with the kernel's


class Wire:
    """An interface with its traffic, the kernel's counters, our counters while they exist, and the charged bytes."""

    def __init__(self) -> None:
        self.kernel: Counters | None = ZERO
        self.own: Amounts | None = None
        self.passed, self.charged = NOTHING, NOTHING
        self.mark = UNREAD

    def pass_(self, amounts: Amounts) -> None:
        """Let traffic pass: our counters tell floods and refused frames from usage, the kernel's do not."""
        assert self.kernel is not None
        self.kernel = self.kernel.plus(amounts.everything)
        # Bytes that only the kernel counted are usage.
        self.passed = self.passed.plus(amounts if self.own is not None else Amounts(*amounts.everything))
        self.own = self.own and self.own.plus(amounts)

    def cover(self) -> None:
        self.own = self.own or NOTHING

    def read(self) -> Amounts:
        self.mark, amounts = advance(self.mark, Reading(self.kernel, self.own))
        self.charged = self.charged.plus(amounts)
        return amounts


TRAFFIC = st.builds(Amounts, *[st.integers(0, 10**13)] * 5)
STEPS = st.one_of(TRAFFIC, st.sampled_from(["read", "cover", "flush"]))


@given(st.lists(STEPS))
def test_every_byte_is_charged_once_whenever_our_counters_are_flushed_and_restored(
    steps: list[object],
) -> None:
    wire = Wire()
    for step in steps:
        match step:
            case Amounts():
                wire.pass_(step)
            case "read":
                wire.read()
            case "cover":
                wire.cover()
            case _:
                # Bytes between the last reading and a flush cannot be told apart afterwards.
                wire.read()
                wire.own = None
                wire.read()
    wire.read()
    assert wire.charged == wire.passed


@given(TRAFFIC, TRAFFIC, TRAFFIC)
def test_bytes_that_pass_while_our_counters_are_gone_are_usage_by_the_kernels_counters(
    before: Amounts, between: Amounts, after: Amounts
) -> None:
    wire = Wire()
    wire.cover()
    wire.pass_(before)
    wire.read()
    wire.own = None
    wire.pass_(between)
    assert wire.read() == Amounts(*between.everything)
    wire.cover()
    wire.pass_(after)
    assert wire.read() == after


def test_bytes_between_the_last_reading_and_a_flush_are_usage_too() -> None:
    wire = Wire()
    wire.cover()
    wire.read()
    wire.pass_(Amounts(10, 20, 30))
    wire.own = None
    assert wire.read() == Amounts(40, 20)


def test_counters_that_started_again_unnoticed_are_recognised_by_smaller_values() -> None:
    wire = Wire()
    wire.cover()
    wire.pass_(Amounts(1000, 1000))
    wire.read()
    wire.own = NOTHING
    wire.pass_(Amounts(10, 20, 3))
    assert wire.read() == Amounts(10, 20, 3)


# behind a drop by tc, which our own counters do not see


def test_bytes_that_only_the_kernel_saw_before_a_drop_are_refused() -> None:
    mark = Mark(Counters(10, 100), Amounts(10, 100))
    now = Reading(Counters(10, 350), Amounts(10, 100))
    assert advance(mark, now, drops=True) == (Mark(*now, Counters(0, 250)), Amounts(0, 0, refused_out_bytes=250))
    assert advance(mark, now)[1] == NOTHING


def test_bytes_that_passed_before_the_drop_was_put_are_usage() -> None:
    mark = Mark(Counters(10, 100), Amounts(10, 100))
    now = Reading(Counters(30, 350), Amounts(30, 220))
    assert advance(mark, now, drops=True)[1] == Amounts(20, 120, refused_out_bytes=130)


def test_bytes_that_a_drop_refused_just_before_its_end_are_refused_once_nothing_passes() -> None:
    tally = following(binding(mark=Mark(Counters(10, 100), Amounts(10, 100))))
    steps: list[tuple[dict[int, float], Counters, Amounts, int]] = [
        # The drop's last frames come between the last reading under it and its end.
        ({1: 0.0}, Counters(10, 350), Amounts(10, 100), 250),
        # A frame passes between the readings of our counters and the kernel's.
        ({}, Counters(10, 450), Amounts(10, 110), 250),
        ({}, Counters(10, 450), Amounts(10, 120), 250),
        ({}, Counters(10, 450), Amounts(10, 120), 330),
        ({}, Counters(10, 450), Amounts(10, 120), 330),
    ]
    for number, (shut, kernel, own, refused) in enumerate(steps, 1):
        tally.shut = shut
        tally.credit({1: Reading(kernel, own)}, NOON + number * SECOND, for_every_vm)
        counted = tally.tracked[1].counted
        assert (number, counted.out_bytes, counted.refused_out_bytes) == (number, own.out_bytes - 100, refused)


def test_bytes_before_a_drop_are_no_usage_if_our_counters_are_lost_afterwards() -> None:
    mark, _ = advance(
        Mark(Counters(10, 100), Amounts(10, 100)), Reading(Counters(10, 350), Amounts(10, 100)), drops=True, shut=True
    )
    assert advance(mark, Reading(Counters(15, 370), None)) == (Mark(Counters(15, 370)), Amounts(5, 20))


def test_while_our_counters_are_lost_bytes_from_a_guest_behind_a_drop_are_refused() -> None:
    mark = Mark(Counters(10, 100), Amounts(10, 100))
    began = Amounts(0, 0, 0, 0, 20)
    assert advance(mark, Reading(Counters(10, 350), None), drops=True, shut=True)[1] == Amounts(
        0, 0, refused_out_bytes=250
    )
    assert advance(mark, Reading(Counters(10, 350), began), drops=True, shut=True)[1] == Amounts(
        0, 0, refused_out_bytes=250
    )


def test_bytes_before_a_drop_after_the_frontend_connected_anew_are_refused() -> None:
    mark = Mark(Counters(10, 100), Amounts(10, 100))
    _, amounts = advance(mark, Reading(Counters(0, 40), Amounts(10, 100)), drops=True, shut=True)
    assert amounts == Amounts(0, 0, refused_out_bytes=40)


@pytest.mark.parametrize(
    ("put", "earlier", "refused"),
    [(-1, 100, True), (5, 100, False), (5, 0, True), (None, 100, False), (9999, 100, True)],
)
def test_bytes_are_refused_only_if_the_drop_stood_at_the_last_reading_or_from_the_first_frame(
    put: int | None, earlier: int, refused: bool
) -> None:
    tally = following(binding(mark=Mark(Counters(0, earlier))))
    tally.shut = {} if put is None else {1: NOON.timestamp() + put}
    tally.credit({1: Reading(Counters(0, earlier + 50))}, NOON + 10 * SECOND, for_every_vm)
    amounts = tally.tracked[1].counted
    assert (amounts.out_bytes, amounts.refused_out_bytes) == ((0, 50) if refused else (50, 0))


def test_our_last_counts_are_credited_when_the_interface_and_the_kernels_counters_are_gone() -> None:
    wire = Wire()
    wire.cover()
    wire.pass_(Amounts(100, 50))
    wire.read()
    wire.pass_(Amounts(7, 8, 9))
    wire.kernel = None
    assert wire.read() == Amounts(7, 8, 9)


def test_our_counters_lose_nothing_when_netback_clears_the_kernels() -> None:
    wire = Wire()
    wire.cover()
    wire.pass_(Amounts(100, 50))
    wire.read()
    wire.pass_(Amounts(7, 8))
    wire.kernel = ZERO
    assert wire.read() == Amounts(7, 8)
    wire.pass_(Amounts(1, 1))
    wire.own = None
    assert wire.read() == Amounts(1, 1)


def test_usage_never_shrinks_if_our_counters_are_ahead_of_the_kernels() -> None:
    # netback drops frames that a slow guest does not fetch, after our counters have counted them
    wire = Wire()
    wire.cover()
    wire.pass_(Amounts(1000, 0))
    wire.kernel = Counters(900, 0)
    wire.read()
    wire.own = None
    assert wire.read() == NOTHING


def test_counters_that_were_added_late_add_to_the_kernels_count_before_them() -> None:
    wire = Wire()
    wire.pass_(Amounts(30, 40))
    wire.cover()
    wire.pass_(Amounts(1, 2, 3, 4, 5))
    assert wire.read() == Amounts(31, 42, 3, 4, 5)


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


def counted(tally: Tally, until: datetime) -> dict[datetime, int]:
    """Hour -> bytes, for a reading of 7200 bytes at `until`."""
    one = binding(1)
    tally.credit({one.id: Reading(Counters(7200, 0))}, until, lambda _, moment: monthly(moment))
    return {share.hour: share.in_bytes for _, share in tally.pending().shares}


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


def following(*bindings: Binding, since: datetime = NOON) -> Tally:
    tally = Tally()
    for one in bindings:
        tally.follow(one, since)
    tally.open_period(1, monthly(since).start, ZERO)
    return tally


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

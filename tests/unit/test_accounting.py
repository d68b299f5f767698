"""Accounting: the bytes between two readings of a vif, by our own counters and by the kernel's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tallies import NOON, SECOND, binding, following, for_every_vm
from xenbw.accounting import advance, delta
from xenbw.model import NOTHING, UNREAD, ZERO, Amounts, Counters, Mark, Reading

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


def test_what_was_refused_on_the_way_to_a_guest_is_not_taken_from_the_bytes_that_bridge_a_flush() -> None:
    mark, _ = advance(Mark(Counters(100, 0), Amounts(100, 0)), Reading(Counters(100, 0), Amounts(100, 0, 0, 50)))
    assert advance(mark, Reading(Counters(180, 0), None))[1] == Amounts(80, 0)


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

"""The rules for throttles and hard limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clock import utc
from xenbw.model import VM, Action, Allowance, Cause, Count, Counters, Period, Rates, State
from xenbw.quota import Standing, ceiling, stand

PERIOD = Period(utc("2026-03-01"), utc("2026-04-01"))
THROTTLE = Allowance(limit_bytes=1000, action=Action.THROTTLE, rate=10**7, rate_in=5 * 10**6, hard_limit_bytes=2000)
# From harmless to hard: a VM's state gets worse in this order while its usage grows.
ORDER = [State.OK, State.WARNED, State.THROTTLED, State.OVER]


def standing(used: int, *, enforced: bool = True, allowance: Allowance = THROTTLE, **facts: object) -> Standing:
    vm = VM(id=1, name="web1", found_at=utc("2026-03-01"), **facts)  # type: ignore[arg-type]  # test shorthand
    return stand(vm, allowance, enforced, Counters(used, 0), PERIOD)


@pytest.mark.parametrize(
    ("used", "state", "block", "throttle"),
    [
        (799, State.OK, None, None),
        (800, State.WARNED, None, None),
        (1000, State.WARNED, None, None),
        (1001, State.THROTTLED, None, Rates(5 * 10**6, 10**7)),
        (2000, State.THROTTLED, None, Rates(5 * 10**6, 10**7)),
        (2001, State.OVER, Cause.QUOTA, None),
    ],
)
def test_a_vm_is_throttled_past_its_limit_and_blocked_past_its_hard_limit(
    used: int, state: State, block: Cause | None, throttle: Rates | None
) -> None:
    found = standing(used)
    assert (found.state, found.block, found.throttle) == (state, block, throttle)


def test_a_rate_counts_each_way_unless_there_is_another_to_the_guest() -> None:
    allowance = Allowance(limit_bytes=1000, action=Action.THROTTLE, rate=64_000)
    assert standing(1001, allowance=allowance).throttle == Rates(64_000, 64_000)


def test_the_reason_names_the_rates_and_the_hard_limit() -> None:
    used = "(in and out together): over its"
    assert standing(1500).reason == (
        f"used 1.50 KB of 1.00 KB {used} allowance by 500 B; throttled to 5 Mbit/s in and 10 Mbit/s out"
    )
    assert standing(2500).reason == f"used 2.50 KB of 2.00 KB {used} hard limit by 500 B"
    same = Allowance(limit_bytes=1000, action=Action.THROTTLE, rate=10**7)
    assert standing(1500, allowance=same).reason.endswith("; throttled to 10 Mbit/s")


@pytest.mark.parametrize("action", list(Action))
def test_past_the_hard_limit_a_vm_is_blocked_whatever_its_action(action: Action) -> None:
    found = standing(2001, allowance=Allowance(1000, action=action, rate=10**7, hard_limit_bytes=2000))
    assert (found.state, found.block, found.throttle) == (State.OVER, Cause.QUOTA, None)


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize(
    ("used", "state", "block"),
    [
        (1599, State.OK, None),
        (1600, State.WARNED, None),
        (2000, State.WARNED, None),
        (2001, State.OVER, Cause.QUOTA),
    ],
)
def test_a_hard_limit_alone_is_a_limit_that_blocks(
    used: int, state: State, block: Cause | None, action: Action
) -> None:
    found = standing(used, allowance=Allowance(action=action, rate=10**7, hard_limit_bytes=2000))
    assert (found.state, found.block, found.throttle) == (state, block, None)


def test_with_a_hard_limit_as_large_as_its_limit_a_vm_is_never_throttled() -> None:
    allowance = Allowance(1000, action=Action.THROTTLE, rate=10**7, hard_limit_bytes=1000)
    assert [standing(used, allowance=allowance).block for used in (1000, 1001)] == [None, Cause.QUOTA]


@pytest.mark.parametrize("used", [1001, 2001])
def test_a_lift_ends_throttle_and_block_until_the_end_of_its_period(used: int) -> None:
    found = standing(used, lifted_until=PERIOD.end)
    assert (found.state, found.block, found.throttle) == (State.EXEMPT, None, None)
    assert standing(used, lifted_until=utc("2026-03-25")).state is not State.EXEMPT


@pytest.mark.parametrize("used", [1001, 2001])
def test_a_vm_whose_allowance_is_not_enforced_is_neither_throttled_nor_blocked(used: int) -> None:
    found = standing(used, enforced=False)
    assert (found.state, found.block, found.throttle) == (State.OVER, None, None)


def test_the_action_warn_does_not_throttle_although_there_is_a_rate() -> None:
    found = standing(1001, allowance=Allowance(1000, action=Action.WARN, rate=10**7, hard_limit_bytes=2000))
    assert (found.state, found.block, found.throttle) == (State.OVER, None, None)
    assert found.reason.endswith("its action is only to warn")


def test_the_action_throttle_without_a_rate_blocks() -> None:
    found = standing(1001, allowance=Allowance(1000, action=Action.THROTTLE))
    assert (found.state, found.block, found.throttle) == (State.OVER, Cause.QUOTA, None)


def test_a_block_by_the_admin_comes_before_a_throttle() -> None:
    found = standing(1001, blocked_reason="unpaid")
    assert (found.state, found.block, found.throttle) == (State.BLOCKED, Cause.ADMIN, None)


@pytest.mark.parametrize(
    ("state", "bound"),
    [
        (State.OK, 800),
        (State.WARNED, 1001),
        (State.THROTTLED, 2001),
        (State.OVER, 2001),
        (State.UNLIMITED, 2001),
        (State.EXEMPT, float("inf")),
        (State.BLOCKED, float("inf")),
    ],
)
def test_each_state_has_the_usage_at_which_it_may_change(state: State, bound: float) -> None:
    assert ceiling(THROTTLE, state, 0 if state is State.OK else 80) == bound


@pytest.mark.parametrize(
    ("state", "bound"), [(State.OK, 1600), (State.WARNED, 2001), (State.OVER, 2001), (State.EXEMPT, float("inf"))]
)
def test_a_hard_limit_alone_bounds_the_states_as_a_limit_does(state: State, bound: float) -> None:
    assert ceiling(Allowance(hard_limit_bytes=2000), state, 0 if state is State.OK else 80) == bound


def test_without_any_limit_no_state_changes() -> None:
    assert {ceiling(Allowance(), state) for state in State} == {float("inf")}


LIMITS = st.none() | st.integers(1, 5000)


@given(LIMITS, LIMITS, st.integers(1, 100), st.sampled_from([Action.THROTTLE, Action.WARN]), st.data())
def test_below_the_ceiling_of_its_state_a_vm_that_uses_more_keeps_that_state(
    limit: int | None, hard: int | None, warn: int, action: Action, data: st.DataObject
) -> None:
    allowance = Allowance(limit, Count.IN, (warn,), action, rate=10**7, hard_limit_bytes=hard)
    used = data.draw(st.integers(0, 6000))
    before = standing(used, allowance=allowance)
    more = data.draw(st.integers(used, 6000))
    after = standing(more, allowance=allowance)
    if more < ceiling(allowance, before.state, before.verdict.threshold):
        assert (after.state, after.block) == (before.state, before.block)
        assert after.verdict.threshold == before.verdict.threshold


@given(LIMITS, st.integers(0, 6000), st.integers(0, 6000))
def test_a_vm_that_uses_more_is_never_held_less(hard: int | None, used: int, more: int) -> None:
    allowance = Allowance(1000, action=Action.THROTTLE, rate=10**7, hard_limit_bytes=hard)
    less, greater = (standing(amount, allowance=allowance).state for amount in sorted((used, more)))
    assert ORDER.index(less) <= ORDER.index(greater)

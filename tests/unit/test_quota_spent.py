"""Verdicts of VMs whose tripwire ran out in the kernel, and the limits that the kernel holds."""

from __future__ import annotations

import pytest

from tests.support.clock import utc
from xenbw.model import VM, Action, Allowance, Cause, Count, Counters, Period, State
from xenbw.quota import FRAME, limits, stand

PERIOD = Period(utc("2026-03-01"), utc("2026-04-01"))
MB = 1_000_000
BLOCK = Allowance(10 * MB)
THROTTLE = Allowance(10 * MB, action=Action.THROTTLE, rate=10**7, hard_limit_bytes=20 * MB)


def vm(state: State = State.OK, since: str = "2026-03-10") -> VM:
    return VM(1, "web1", utc("2026-01-01"), state=state, state_since=utc(since))


def standing(used: int, allowance: Allowance = BLOCK, *spent: str, of: VM | None = None) -> tuple[State, Cause | None]:
    found = stand(of or vm(), allowance, True, Counters(used, 0), PERIOD, spent)
    return found.state, found.block


def test_a_vm_is_over_when_the_kernel_refused_a_frame_that_would_have_passed_its_allowance() -> None:
    assert standing(10 * MB - 1000, BLOCK, "trip") == (State.OVER, Cause.QUOTA)
    assert standing(10 * MB, BLOCK) == (State.WARNED, None)
    assert standing(10 * MB + 1, BLOCK) == (State.OVER, Cause.QUOTA)


def test_the_reason_says_that_it_used_up_its_allowance() -> None:
    found = stand(vm(), BLOCK, True, Counters(10 * MB - 1000, 0), PERIOD, ["trip"])
    assert found.reason.endswith("used up its allowance")


def test_a_tripwire_that_ran_out_too_early_makes_no_vm_over() -> None:
    assert standing(10 * MB - FRAME, BLOCK, "trip") == (State.WARNED, None)


def test_a_vm_that_used_up_its_allowance_stays_over_in_this_period_without_its_tripwire() -> None:
    assert standing(10 * MB - 1000, of=vm(State.OVER)) == (State.OVER, Cause.QUOTA)
    assert standing(10 * MB - 1000, of=vm(State.OVER, "2026-02-20")) == (State.WARNED, None)


def test_a_raise_releases_it() -> None:
    assert standing(10 * MB - 1000, Allowance(20 * MB), of=vm(State.OVER)) == (State.OK, None)


def test_it_is_throttled_at_its_allowance_and_blocked_at_its_hard_limit() -> None:
    assert standing(10 * MB - 1000, THROTTLE, "slow")[0] is State.THROTTLED
    assert standing(20 * MB - 1000, THROTTLE, "slow", of=vm(State.THROTTLED))[0] is State.THROTTLED
    assert standing(20 * MB - 1000, THROTTLE, "slow", "trip", of=vm(State.THROTTLED)) == (State.OVER, Cause.QUOTA)


@pytest.mark.parametrize(
    ("allowance", "held"),
    [
        (BLOCK, {"trip": 10 * MB}),
        (Allowance(10 * MB, action=Action.WARN), {}),
        (Allowance(10 * MB, action=Action.WARN, hard_limit_bytes=20 * MB), {"trip": 20 * MB}),
        (THROTTLE, {"slow": 10 * MB, "trip": 20 * MB}),
        (Allowance(10 * MB, action=Action.THROTTLE), {"trip": 10 * MB}),
        (Allowance(10 * MB, count=Count.MAX, hard_limit_bytes=20 * MB), {"trip": 10 * MB}),
        (Allowance(None, hard_limit_bytes=20 * MB), {"trip": 20 * MB}),
        (Allowance(None), {}),
    ],
)
def test_the_kernel_holds_these_limits(allowance: Allowance, held: dict[str, int]) -> None:
    assert limits(allowance) == held

"""The rules for VMs that are a frame short of their allowance, since the kernel refused the frame past it."""

from __future__ import annotations

import pytest

from tests.support.clock import utc
from xenbw.model import VM, Action, Allowance, Cause, Counters, Period, State
from xenbw.quota import FRAME, limits, stand

MARCH = Period(utc("2026-03-01"), utc("2026-04-01"))
FEBRUARY_DAY, MARCH_DAY = utc("2026-02-20"), utc("2026-03-20")
LIMIT, HARD, RATE = 1_000_000, 2_000_000, 10**7
BLOCK = Allowance(limit_bytes=LIMIT)
THROTTLE = Allowance(limit_bytes=LIMIT, action=Action.THROTTLE, rate=RATE, hard_limit_bytes=HARD)


def state(used: int, allowance: Allowance = BLOCK, spent: tuple[str, ...] = (), **facts: object) -> State:
    vm = VM(id=1, name="web1", found_at=FEBRUARY_DAY, **facts)  # type: ignore[arg-type]  # test shorthand
    return stand(vm, allowance, True, Counters(used, 0), MARCH, spent).state


@pytest.mark.parametrize(
    ("allowance", "used", "spent", "found"),
    [
        (BLOCK, LIMIT - FRAME + 1, ("trip",), State.OVER),
        (BLOCK, LIMIT - FRAME, ("trip",), State.WARNED),
        (BLOCK, LIMIT, (), State.WARNED),
        (THROTTLE, LIMIT - 1, ("slow",), State.THROTTLED),
        (THROTTLE, HARD - 1, ("slow",), State.THROTTLED),
        (THROTTLE, HARD - 1, ("trip",), State.OVER),
        (THROTTLE, HARD - FRAME, ("trip",), State.THROTTLED),
    ],
)
def test_a_tripwire_that_ran_out_holds_a_vm_within_a_frame(
    allowance: Allowance, used: int, spent: tuple[str, ...], found: State
) -> None:
    assert state(used, allowance, spent) is found


@pytest.mark.parametrize("held", [State.OVER, State.EXEMPT, State.THROTTLED])
def test_a_vm_that_was_held_stays_so_within_a_frame_until_its_period_ends(held: State) -> None:
    assert state(LIMIT - 1, state=held, state_since=MARCH_DAY) is State.OVER
    assert state(LIMIT - FRAME, state=held, state_since=MARCH_DAY) is State.WARNED
    assert state(LIMIT - 1, state=held, state_since=FEBRUARY_DAY) is State.WARNED


def test_a_lift_holds_within_a_frame() -> None:
    found = state(LIMIT - 1, state=State.OVER, state_since=MARCH_DAY, lifted_until=MARCH.end)
    assert found is State.EXEMPT


def test_a_vm_held_at_its_hard_limit_stays_blocked() -> None:
    vm = VM(id=1, name="web1", found_at=FEBRUARY_DAY, state=State.OVER, state_since=MARCH_DAY)
    assert stand(vm, THROTTLE, True, Counters(HARD - 1, 0), MARCH).block is Cause.QUOTA


@pytest.mark.parametrize(
    ("allowance", "found"),
    [
        (Allowance(), {}),
        (BLOCK, {"trip": LIMIT}),
        (Allowance(limit_bytes=LIMIT, action=Action.WARN), {}),
        (Allowance(limit_bytes=LIMIT, action=Action.WARN, hard_limit_bytes=HARD), {"trip": HARD}),
        (Allowance(limit_bytes=LIMIT, action=Action.THROTTLE), {"trip": LIMIT}),
        (THROTTLE, {"slow": LIMIT, "trip": HARD}),
        (Allowance(hard_limit_bytes=HARD), {"trip": HARD}),
    ],
)
def test_the_kernel_holds_the_lines_at_which_a_vm_is_throttled_or_blocked(
    allowance: Allowance, found: dict[str, int]
) -> None:
    assert limits(allowance) == found

"""Which VMs a round judges because a tripwire of theirs ran out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.clock import utc
from xenbw.daemon.rounds import Rounds
from xenbw.model import VM, Action, Allowance, Entry, Period, State
from xenbw.nft.objects import Quota


@pytest.mark.parametrize(
    ("action", "state", "blocked", "judged"),
    [
        (Action.BLOCK, State.WARNED, False, True),
        (Action.BLOCK, State.OVER, True, False),
        (Action.THROTTLE, State.THROTTLED, False, True),
        (Action.THROTTLE, State.OVER, True, False),
        (Action.WARN, State.OVER, False, True),
        (Action.WARN, State.OVER, True, False),
        (Action.WARN, State.BLOCKED, True, False),
    ],
)
def test_a_vm_is_judged_unless_it_is_held_there_already(
    action: Action, state: State, blocked: bool, judged: bool
) -> None:
    vm = VM(id=1, name="web1", found_at=utc("2026-03-01"), state=state)
    allowance = Allowance(limit_bytes=1000, action=action, rate=8000, hard_limit_bytes=2000)
    rounds = cast("Any", Rounds.__new__(Rounds))
    quotas = {"trip-total-1": Quota(2001, 2001), "other": Quota(1, 1)}
    period = Period(utc("2026-03-01"), utc("2026-04-01"))
    rounds._roster = SimpleNamespace(entries={1: Entry(vm, allowance, True, period)})
    rounds._reconciler = SimpleNamespace(blocked=frozenset([1] if blocked else []))
    assert rounds._spent(quotas) == ({1: {"trip"}} if judged else {})

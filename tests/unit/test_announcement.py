"""The announcements of throttles: which changes of a VM's standing are told, as what, and why."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.support.clock import utc
from xenbw.model import VM, Action, Allowance, Block, Cause, Counters, Entry, Period, State
from xenbw.quota import Standing, stand
from xenbw.tell.announcement import Announcement, announcement, why_released
from xenbw.tell.message import Case

NOW = utc("2026-03-20 12:00")
PERIOD = Period(utc("2026-03-01"), utc("2026-04-01"))
THROTTLE = Allowance(limit_bytes=10**9, action=Action.THROTTLE, rate=10**7, hard_limit_bytes=2 * 10**9)
BLOCK = Block(1, Cause.QUOTA, "over", utc("2026-03-10"), PERIOD.end)
FINE, PAST, FAR_PAST = 10**8, 10**9 + 1, 2 * 10**9 + 1


class Judged:
    """A VM whose state was `was`, and that is judged again."""

    def __init__(
        self,
        was: State,
        used: int,
        *,
        allowance: Allowance = THROTTLE,
        since: datetime = utc("2026-03-10"),  # noqa: B008 (frozen)
        enforced: bool = True,
        **facts: Any,
    ) -> None:
        vm = VM(1, "web1", utc("2026-01-01"), state=was, state_since=since, **facts)
        self.entry = Entry(vm, allowance, enforced, PERIOD)
        self.standing: Standing = stand(vm, allowance, enforced, Counters(used, 0), PERIOD)

    def told(self, block: Block | None = None) -> Announcement | None:
        until = PERIOD.end if self.standing.block is Cause.QUOTA else None
        return announcement(self.entry, self.standing, block, until, self._case)

    def _case(self) -> Case:
        allowance, used = self.entry.allowance, self.standing.verdict.used_bytes
        zone = ZoneInfo("UTC")
        return Case("dom0-a", "web1", self.standing.reason, (), PERIOD, NOW, zone, allowance, used)


@pytest.mark.parametrize("was", [State.OK, State.WARNED, State.OVER, State.EXEMPT, State.UNLIMITED])
def test_a_vm_that_becomes_throttled_is_announced_with_its_rate_and_the_end_of_its_period(was: State) -> None:
    told = Judged(was, PAST).told()
    assert told is not None
    reason = "used 1.00 GB of 1.00 GB (in and out together): over its allowance by 1 B; throttled to 10 Mbit/s"
    assert (told.kind, told.text) == ("throttled", f"web1 throttled: {reason}")
    assert told.subject == "[xenbw] web1: throttled"
    document = json.loads(told.document)
    assert (document["kind"], document["reason"]) == ("throttled", reason)
    assert (document["until"], document["limit_bytes"]) == ("2026-04-01T00:00:00Z", 10**9)
    assert (document["subject"], document["text"]) == (told.subject, told.body)


def test_a_vm_that_stays_throttled_is_announced_once() -> None:
    assert Judged(State.THROTTLED, 15 * 10**8).told() is None


@pytest.mark.parametrize(
    ("judged", "why"),
    [
        (Judged(State.THROTTLED, FINE), "its allowance covers its usage again"),
        (Judged(State.THROTTLED, 9 * 10**8), "its allowance covers its usage again"),
        (Judged(State.THROTTLED, PAST, allowance=Allowance()), "its allowance covers its usage again"),
        (Judged(State.THROTTLED, FINE, since=utc("2026-02-10")), "a new period began"),
        (
            Judged(State.THROTTLED, PAST, lifted_until=PERIOD.end),
            "the admin lifted the throttle until the period ends",
        ),
        (
            Judged(State.THROTTLED, PAST, allowance=replace(THROTTLE, action=Action.WARN)),
            "its allowance no longer throttles it",
        ),
        (Judged(State.THROTTLED, PAST, enforced=False), "its allowance no longer throttles it"),
    ],
)
def test_the_end_of_a_throttle_is_announced_with_the_reason(judged: Judged, why: str) -> None:
    told = judged.told()
    assert told is not None
    assert (told.kind, told.text) == ("unthrottled", f"web1 no longer throttled: {why}")
    assert told.subject == "[xenbw] web1: no longer throttled"
    assert f"Its state now: {judged.standing.reason}." in told.body
    document = json.loads(told.document)
    assert (document["kind"], document["reason"], document["until"]) == ("unthrottled", why, None)


def test_a_throttled_vm_past_its_hard_limit_is_announced_as_null_routed_and_nothing_else() -> None:
    told = Judged(State.THROTTLED, FAR_PAST).told()
    assert told is not None
    assert told.kind == "null-routed"
    assert "over its hard limit by 1 B" in told.text
    assert json.loads(told.document)["until"] == "2026-04-01T00:00:00Z"


def test_a_throttled_vm_that_the_admin_blocks_is_announced_as_null_routed() -> None:
    told = Judged(State.THROTTLED, PAST, blocked_reason="unpaid").told()
    assert told is not None
    assert (told.kind, told.text.split(": ")[1]) == ("null-routed", "unpaid")


@pytest.mark.parametrize(
    ("was", "block", "why"),
    [
        (State.OVER, BLOCK, "its allowance now throttles it"),
        (State.BLOCKED, replace(BLOCK, cause=Cause.ADMIN, until=None), "the admin lifted the block"),
    ],
)
def test_a_blocked_vm_that_becomes_throttled_is_announced_as_released_and_throttled(
    was: State, block: Block, why: str
) -> None:
    judged = Judged(was, PAST)
    told = judged.told(block)
    assert told is not None
    assert (told.kind, told.text) == ("released", f"web1 released, and throttled: {why}")
    assert told.subject == "[xenbw] web1: released, and throttled"
    assert f"Its state now: {judged.standing.reason}." in told.body
    assert why_released(block, judged.standing, NOW) == why

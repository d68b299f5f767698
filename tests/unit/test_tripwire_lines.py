"""Which lines of VMs' allowances the kernel has to hold, and the sentence by which explain shows one."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.clock import utc
from xenbw.blocks.block import Line
from xenbw.cli import explain
from xenbw.enforce import desired
from xenbw.model import VM, Action, Allowance, Count, Counters, Entry, Period
from xenbw.nft.objects import Quota

MARCH = Period(utc("2026-03-01"), utc("2026-04-01"))
BLOCK = Allowance(limit_bytes=1000, count=Count.TOTAL)
THROTTLE = replace(BLOCK, action=Action.THROTTLE, rate=8000, hard_limit_bytes=2000)
VM1 = VM(id=1, name="web1", found_at=MARCH.start)


def lines(
    allowance: Allowance, *throttled: int, vm: VM = VM1, enforced: bool = True, metered: bool = True
) -> list[tuple[object, ...]]:
    """Kind, counted, limit and used of each line of a VM that used 10 in and 20 out here, and 1 and 2 elsewhere."""
    entry = Entry(vm, allowance, enforced, MARCH, Counters(1, 2))
    roster = cast("Any", SimpleNamespace(entries={1: entry}))
    return [one[1:5] for one in desired.lines(roster, {1: Counters(10, 20)}, throttled, metered=metered)]


@pytest.mark.parametrize(
    ("count", "found"),
    [
        (Count.TOTAL, [("trip", "total", 997, 30)]),
        (Count.IN, [("trip", "in", 999, 10)]),
        (Count.OUT, [("trip", "out", 998, 20)]),
        (Count.MAX, [("trip", "in", 999, 10), ("trip", "out", 998, 20)]),
    ],
)
def test_a_line_leaves_to_this_host_what_was_not_used_elsewhere(count: Count, found: list[tuple[object, ...]]) -> None:
    assert lines(replace(BLOCK, count=count)) == found


def test_a_throttled_vm_is_past_its_line_and_its_hard_limit_is_held() -> None:
    assert lines(THROTTLE) == [("slow", "total", 997, 30), ("trip", "total", 1997, 30)]
    assert lines(THROTTLE, 1) == [("slow", "total", None, 0), ("trip", "total", 1997, 30)]


def test_a_vm_whose_allowance_is_not_enforced_has_no_line() -> None:
    assert lines(BLOCK, enforced=False) == []
    assert lines(BLOCK, vm=replace(VM1, lifted_until=MARCH.end)) == []
    assert lines(replace(BLOCK, action=Action.WARN)) == []
    assert lines(BLOCK, vm=replace(VM1, lifted_until=MARCH.start)) != []


def test_without_our_counters_only_throttles_are_held() -> None:
    assert lines(THROTTLE, metered=False) == []
    assert lines(THROTTLE, 1, metered=False) == [("slow", "total", None, 0)]


def sentence(quota: Quota, line: Line) -> str:
    (held,) = explain._held([line], {f"{line.kind}-{line.counted}-1": quota})
    return explain._tripwire(held)


def test_explain_shows_what_the_kernel_and_the_ledger_have_left() -> None:
    line = Line(1, "trip", "total", 5000, 1000, MARCH.start)
    assert sentence(Quota(5000, 1000), line) == (
        "the kernel lets 4,000 more bytes pass (in and out), and what is past them is refused;"
        " by the ledger 4,000 are left"
    )
    assert sentence(Quota(5000, 1100), line).endswith("by the ledger 4,000 are left (-100 in the kernel)")
    assert "is throttled; by the ledger 0 are left" in sentence(Quota(1, 1), line._replace(kind="slow", limit=None))


def test_a_line_that_the_kernel_does_not_hold_has_nothing_left_to_show() -> None:
    (held,) = explain._held([Line(1, "trip", "in", 5, 1, MARCH.start)], {})
    assert held.left_bytes is None
    assert held.apart_bytes == 0

"""How far a VM's usage is ahead of its quota object's consumption, and what the object's limit has to be."""

from __future__ import annotations

import pytest

from tests.support.clock import utc
from xenbw.blocks.block import Line
from xenbw.blocks.tripwire import Gap, _Change, measured
from xenbw.nft.objects import Quota

MARCH, APRIL = utc("2026-03-01"), utc("2026-04-01")
LINE = Line(7, "trip", "total", 1_000_000, 400_000, MARCH)
NAME = "trip-total-7"
REST = Quota(1_000_000, 400_000)


def gap(size: int, *, exact: bool = True, doubted: int | None = None) -> Gap:
    return Gap(size, MARCH, exact, doubted)


def test_without_a_frame_in_between_the_gap_is_exact() -> None:
    assert measured(LINE, REST, REST, None) == gap(0)
    assert measured(LINE, REST._replace(consumed=390_000), REST._replace(consumed=390_000), None) == gap(10_000)


def test_with_frames_in_between_it_is_at_most_what_was_there_before() -> None:
    before, after = REST._replace(consumed=380_000), REST
    assert measured(LINE, before, after, None) == gap(20_000, exact=False)
    assert measured(LINE, before, after, gap(5_000, exact=False)) == gap(5_000, exact=False)
    assert measured(LINE, before, after, gap(30_000, exact=False)) == gap(20_000, exact=False)
    assert measured(LINE, before, after, gap(3)) == gap(3)


def test_a_larger_gap_is_believed_at_once_and_a_smaller_one_when_it_is_measured_twice() -> None:
    still = REST._replace(consumed=390_000)
    assert measured(LINE, still, still, gap(0)) == gap(10_000)
    once = measured(LINE, still, still, gap(50_000))
    assert once == gap(50_000, doubted=10_000)
    assert measured(LINE, still, still, once) == gap(10_000)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, REST),
        (REST, None),
        (REST, REST._replace(limit=5_000_000)),
        (REST, REST._replace(consumed=1_000_000)),
    ],
    ids=["not read before", "not read after", "its limit was changed", "it ran out"],
)
def test_otherwise_nothing_is_measured(before: Quota | None, after: Quota | None) -> None:
    assert measured(LINE, before, after, None) is None
    assert measured(LINE, before, after, gap(3)) == gap(3)


def test_another_object_has_no_gap_yet() -> None:
    assert measured(LINE, REST, REST._replace(consumed=10), gap(3)) is None


def test_a_new_period_has_a_gap_of_its_own() -> None:
    line = LINE._replace(used=5, since=APRIL)
    assert measured(line, REST, REST, gap(0)) == Gap(5 - 400_000, APRIL, exact=True)


def change(line: Line, now: Quota, known: Gap | None, sure: int | None = None) -> _Change:
    made = _Change({} if known is None else {NAME: known}, ())
    made.follow(NAME, line, now, sure)
    return made


def test_a_limit_that_is_right_is_left_alone() -> None:
    assert change(LINE, REST, gap(0)).text == ""


def test_a_limit_follows_the_line_and_the_gap_in_place() -> None:
    assert "trip-total-7 { over 2000000 bytes" in change(LINE._replace(limit=2_000_000), REST, gap(0)).text
    assert "trip-total-7 { over 990000 bytes" in change(LINE, REST, gap(10_000)).text
    assert not change(LINE._replace(limit=2_000_000), REST, gap(0)).gone


def test_without_a_measurement_the_object_is_left_alone() -> None:
    assert change(LINE._replace(limit=2_000_000), REST, None).text == ""


SPENT = Quota(1_000_000, 1_000_000)


def test_a_raise_puts_another_object_in_the_place_of_one_that_ran_out() -> None:
    raised = LINE._replace(limit=2_000_000, used=999_000)
    found = change(raised, SPENT, gap(0))
    assert found.gone == {NAME}
    assert "trip-total-7 { over 2000000 bytes used 999000 bytes" in found.text


def test_one_that_ran_out_at_its_line_stays() -> None:
    found = change(LINE._replace(used=999_000), SPENT, gap(0), 999_000)
    assert (found.text, found.gone) == ("", set())


def test_one_that_ran_out_too_early_is_replaced_once_its_usage_is_sure() -> None:
    first = change(LINE, SPENT, gap(0))
    assert (first.text, first.late) == ("", {NAME: 400_000})
    second = change(LINE, SPENT, gap(0), first.late[NAME])
    assert second.gone == {NAME}


def test_one_that_ran_out_in_the_period_before_is_replaced() -> None:
    found = change(LINE._replace(used=0, since=APRIL), SPENT, gap(0), 0)
    assert found.gone == {NAME}


def test_a_line_that_its_vm_is_past_refuses_every_frame() -> None:
    past = LINE._replace(limit=None)
    assert "over 1 bytes" in change(past, REST, gap(0)).text
    assert change(past, REST._replace(limit=1), gap(0)).text == ""


def test_no_gap_outlives_its_object() -> None:
    made = _Change({NAME: gap(3)}, ())
    made.make(NAME, LINE)
    assert made.gaps == {}
    assert made.made == {NAME}

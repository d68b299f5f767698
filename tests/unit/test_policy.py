"""Two sides edit a VM's allowance: what holds, what is told."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clock import utc
from xenbw.book import policy
from xenbw.book.policy import FIELDS, fault
from xenbw.model import Allowance

GB = 10**9
WORDS: dict[str, st.SearchStrategy[Any]] = {
    "limit_bytes": st.sampled_from([None, GB, 2 * GB]),
    "reset_day": st.sampled_from([None, 1, 15]),
    "count": st.sampled_from([None, "in", "total"]),
}
merge = partial(policy.merge, default=Allowance())
SIDE = st.fixed_dictionaries(WORDS)


def test_an_edit_in_the_book_is_taken() -> None:
    found = merge({"limit_bytes": GB}, {"limit_bytes": GB}, {"limit_bytes": 2 * GB})
    assert (found.take, found.give, found.lost) == ({"limit_bytes": 2 * GB}, {}, {})
    assert found.base["limit_bytes"] == 2 * GB


def test_an_edit_made_here_is_given_if_the_book_still_holds_what_it_was_based_on() -> None:
    found = merge({"limit_bytes": 2 * GB}, {"limit_bytes": GB}, {"limit_bytes": GB})
    assert (found.take, found.give, found.lost) == ({}, {"limit_bytes": 2 * GB}, {})


def test_where_both_edited_the_book_wins_and_the_loss_is_told() -> None:
    found = merge({"limit_bytes": 2 * GB}, {"limit_bytes": GB}, {"limit_bytes": 3 * GB})
    assert (found.take, found.give, found.lost) == ({"limit_bytes": 3 * GB}, {}, {"limit_bytes": 2 * GB})


def test_edits_of_different_fields_both_hold() -> None:
    base = {"limit_bytes": GB, "reset_day": 1}
    found = merge({"limit_bytes": 2 * GB, "reset_day": 1}, base, {"limit_bytes": GB, "reset_day": 15})
    assert (found.take, found.give) == ({"reset_day": 15}, {"limit_bytes": 2 * GB})


@pytest.mark.parametrize(
    ("field", "nonsense"),
    [
        ("limit_bytes", -5),
        ("limit_bytes", 0),
        ("limit_bytes", "500GB"),
        ("limit_bytes", True),
        ("limit_bytes", 1.5),
        ("limit_bytes", 2**63),
        ("unlimited", "yes"),
        ("count", "both"),
        ("warn_percent", 101),
        ("warn_percents", [75, 101]),
        ("warn_percents", 75),
        ("action", "explode"),
        ("reset_day", 32),
        ("reset_day", [1]),
        ("rate_bits", 7_999),
        ("rate_bits", "10Mbit"),
        ("rate_bits", 1e7 + 0.5),
        ("rate_in_bits", 10**11 + 1),
        ("rate_in_bits", True),
        ("hard_limit_bytes", 0),
        ("hard_limit_bytes", 2**63),
        ("allow", ["192.0.2.300"]),
        ("allow", "192.0.2.1"),
        ("mail", ["not an address"]),
        ("mail", "customer@example.com"),
        ("blocked_reason", "two\nlines"),
        ("lifted_until", "tomorrow"),
    ],
)
def test_nonsense_in_the_book_is_named_and_the_last_good_value_kept(field: str, nonsense: object) -> None:
    good = {"limit_bytes": GB, "lifted_until": utc("2026-04-01")}.get(field)
    found = merge({field: good}, {field: good}, {field: nonsense})
    assert (found.take, found.give) == ({}, {})
    assert found.base[field] == good
    assert any(field in text for text in found.faults)


@pytest.mark.parametrize(
    ("default", "local", "book", "take", "ignored"),
    [
        (Allowance(), {}, {"action": "throttle", "count": "in"}, {"count": "in"}, ["action"]),
        (Allowance(), {}, {"action": "throttle", "rate_in_bits": 9000}, {"rate_in_bits": 9000}, ["action"]),
        (Allowance(rate=9000), {}, {"action": "throttle"}, {"action": "throttle"}, []),
        (Allowance(), {}, {"action": "throttle", "rate_bits": 9000}, {"action": "throttle", "rate_bits": 9000}, []),
        (Allowance(), {"action": "throttle", "rate_bits": 9000}, {"action": "throttle"}, {}, ["rate_bits"]),
        (Allowance(), {"action": "throttle", "rate_bits": 9000}, {}, {"action": None, "rate_bits": None}, []),
        (Allowance(), {}, {"limit_bytes": 5, "hard_limit_bytes": 4}, {"limit_bytes": 5}, ["hard_limit_bytes"]),
        (Allowance(5), {}, {"hard_limit_bytes": 4}, {}, ["hard_limit_bytes"]),
        (
            Allowance(),
            {},
            {"warn_percent": 75, "warn_percents": (75, 90)},
            {"warn_percent": 75, "warn_percents": (75, 90)},
            [],
        ),
        (Allowance(), {}, {"warn_percents": (75, 90)}, {}, ["warn_percents"]),
        (
            Allowance(),
            {"warn_percent": 75, "warn_percents": (75, 90)},
            {"warn_percent": 60, "warn_percents": (75, 90)},
            {"warn_percent": 60},
            [],
        ),
        (Allowance(5), {}, {"hard_limit_bytes": 4, "unlimited": True}, {"hard_limit_bytes": 4, "unlimited": True}, []),
        (Allowance(), {"hard_limit_bytes": 6}, {"limit_bytes": 7, "hard_limit_bytes": 6}, {}, ["limit_bytes"]),
        (
            Allowance(),
            {"limit_bytes": 5, "hard_limit_bytes": 6},
            {"limit_bytes": 9, "hard_limit_bytes": 8},
            {},
            ["hard_limit_bytes", "limit_bytes"],
        ),
        (
            Allowance(4),
            {"hard_limit_bytes": 5, "limit_bytes": 9, "unlimited": True},
            {"hard_limit_bytes": 5, "limit_bytes": 9},
            {},
            ["unlimited"],
        ),
    ],
)
def test_edits_that_contradict_other_fields_are_named_and_ignored(
    default: Allowance, local: dict[str, Any], book: dict[str, Any], take: dict[str, Any], ignored: list[str]
) -> None:
    found = policy.merge(local, local, book, default)
    assert found.take == take
    assert [told.partition(" = ")[0] for told in found.faults] == ignored
    assert {field: found.base[field] for field in ignored} == {field: local.get(field) for field in ignored}


def test_an_edit_here_that_the_book_overruled_with_a_contradiction_is_not_lost() -> None:
    found = merge({"action": "warn"}, {"action": "block"}, {"action": "throttle"})
    assert (found.take, found.lost, found.base["action"]) == ({}, {}, "block")


def test_an_action_edited_in_the_book_and_a_rate_set_here_go_together() -> None:
    found = merge({"rate_bits": 9000}, {}, {"action": "throttle"})
    assert (found.take, found.give, found.faults) == ({"action": "throttle"}, {"rate_bits": 9000}, ())


def test_an_unknown_field_is_named_and_does_no_harm() -> None:
    found = merge({}, {}, {"_id": "web1", "name": "web1", "edited_by": "panel", "limt_bytes": GB})
    assert found.faults == ("unknown field 'limt_bytes'",)
    assert found.take == {}


@given(SIDE, SIDE, SIDE)
def test_both_sides_agree_afterwards_and_no_edit_is_lost_unsaid(local: Any, base: Any, book: Any) -> None:
    found = merge(local, base, book)
    mine, theirs = {**local, **found.take}, {**book, **found.give}
    for field in FIELDS:
        assert mine.get(field) == theirs.get(field) == found.base.get(field)
        if local.get(field) not in (base.get(field), mine.get(field)):
            assert field in found.lost


@given(SIDE, SIDE)
def test_bringing_together_what_agrees_changes_nothing(local: Any, base: Any) -> None:
    again = merge(local, base, local)
    assert (again.take, again.give, again.lost) == ({}, {}, {})


def test_every_field_can_be_checked() -> None:
    assert [field for field in FIELDS if fault(field, None) is not None] == []
    assert [field for field in FIELDS if fault(field, object()) is None] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("blocked_reason", "x" * 501),
        ("lifted_until", utc("9500-01-01")),
    ],
)
def test_what_is_beyond_all_measure_is_named_in_a_short_line(field: str, value: object) -> None:
    found = merge({}, {}, {field: value})
    assert found.take == {}
    (fault,) = found.faults
    assert fault.startswith(f"{field} = ")
    assert len(fault) < 160


def test_of_many_unknown_fields_a_few_are_named_and_the_others_counted() -> None:
    found = merge({}, {}, {f"field{number}": 1 for number in range(1000)})
    assert len(found.faults) == 6
    assert found.faults[-1] == "995 more unknown fields"


def test_a_removal_that_is_no_date_is_named() -> None:
    assert merge({}, {}, {"retired_at": None}).faults == ()
    assert merge({}, {}, {"retired_at": utc("2026-03-20")}).faults == ()
    assert merge({}, {}, {"retired_at": "today"}).faults == ("retired_at = 'today': not a date",)

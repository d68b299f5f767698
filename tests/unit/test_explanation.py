"""The parts of a VM's usage, and how they compare with other counters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.clock import utc
from xenbw.model import ZERO, Amounts, Binding, Counters, Digest, Kind, Mark
from xenbw.report.audit import Audited, drift, percent, reason
from xenbw.report.explanation import ELSEWHERE, UNKNOWN, explain, meter_of, total

VIF = Binding(1, 1, "boot", 7, 0, Kind.VIF, 9, "vif7.0", utc("2026-03-20"))


def test_the_counts_of_the_interfaces_explain_all_of_the_usage() -> None:
    lines = explain([(VIF, Counters(10, 1)), (VIF, Counters(5, 5))], Counters(15, 6), ZERO)
    assert [(line.usage, line.binding, line.why) for line in lines] == [
        (Counters(10, 1), VIF, ""),
        (Counters(5, 5), VIF, ""),
    ]


def test_usage_that_no_interface_counted_has_its_own_line_with_the_reason() -> None:
    lines = explain([(VIF, Counters(10, 1))], Counters(100, 1), Counters(7, 8))
    assert [(line.usage, line.why) for line in lines[1:]] == [(Counters(90, 0), UNKNOWN), (Counters(7, 8), ELSEWHERE)]
    assert total(lines) == Counters(107, 9)


def test_the_lines_add_up_to_the_usage_even_if_an_interface_counted_more() -> None:
    lines = explain([(VIF, Counters(10, 1))], Counters(4, 1), ZERO)
    assert (lines[1].usage, total(lines)) == (Counters(-6, 0), Counters(4, 1))


def test_an_interface_with_our_counters_is_metered_by_nft_and_any_other_by_the_kernel() -> None:
    assert meter_of(replace(VIF, mark=Mark(ZERO, Amounts(0, 0)))) == "nft"
    assert meter_of(VIF) == "kernel"


def test_summed_up_earlier_lives_are_a_line_before_the_others() -> None:
    earlier = Digest(412, utc("2026-03-01"), utc("2026-03-02"), "offline", (), Amounts(30, 3, 9, 9, 9))
    lines = explain([(VIF, Counters(10, 1))], Counters(45, 4), ZERO, [earlier])
    assert [(line.usage, line.digest) for line in lines] == [
        (Counters(30, 3), earlier),
        (Counters(10, 1), None),
        (Counters(5, 0), None),
    ]
    assert total(lines) == Counters(45, 4)


# the audit


def audited(kernel: Counters | None, kind: Kind = Kind.VIF) -> Audited:
    return Audited(replace(VIF, kind=kind), Counters(100, 1000), Counters(110, 1010), kernel, None)


def test_a_count_between_our_two_readings_is_not_drift() -> None:
    for between in (Counters(100, 1000), Counters(105, 1010), Counters(110, 1003)):
        assert drift(audited(between), between) == ZERO
        assert reason(audited(between)) == ""


def test_drift_is_how_much_more_or_less_the_others_counted() -> None:
    other = Counters(111, 900)
    assert drift(audited(other), other) == Counters(1, -100)


@pytest.mark.parametrize(("drifted", "of", "told"), [(0, 0, 0.0), (5, 0, 100.0), (1, 3, 33.333), (-1, 1000, -0.1)])
def test_a_drift_is_shown_in_percent_of_the_other_counter(drifted: int, of: int, told: float) -> None:
    assert percent(drifted, of) == told


@pytest.mark.parametrize(
    ("kernel", "kind", "told"),
    [
        (Counters(3, 7), Kind.VIF, "netback cleared its counters"),
        (Counters(90, 1005), Kind.VIF, "netback dropped frames"),
        (Counters(105, 1024), Kind.EMU, "14-byte header"),
        (Counters(500, 1005), Kind.VIF, "before xenbw first ran here"),
        (Counters(105, 900), Kind.VIF, "unknown"),
        (None, Kind.VIF, "no interface of that name"),
    ],
)
def test_a_known_reason_for_a_drift_is_given(kernel: Counters | None, kind: Kind, told: str) -> None:
    assert told in reason(audited(kernel, kind))

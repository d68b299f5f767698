"""Charts as shapes."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clock import utc
from xenbw.model import Counters
from xenbw.report import plot
from xenbw.report.plot import Axis, Course, Label, Used

BEGIN = utc("2026-03-01")
HOUR = timedelta(hours=1)
GB = 10**9


def axis(number: int, step: timedelta = HOUR) -> Axis:
    return Axis([BEGIN + at * step for at in range(number + 1)], lambda at: f"{at:%d %H:%M}", lambda at, _: str(at))


def shape(chart: plot.Chart | None, kind: str) -> str:
    assert chart is not None
    return next(found.path for found in chart.shapes if found.kind == kind)


def test_rates_go_up_for_in_and_down_for_out_on_one_scale() -> None:
    values = {BEGIN: Counters(450_000, 0), BEGIN + HOUR: Counters(0, 900_000)}
    chart = plot.rates("hours", "Hours", axis(3), values, ())
    base = int(re.findall(r"^M0 (\d+)", shape(chart, "in"))[0])
    (top,) = {int(y) for y in re.findall(r"V(\d+)", shape(chart, "in"))} - {base}
    (bottom,) = {int(y) for y in re.findall(r"V(\d+)", shape(chart, "out"))} - {base}
    assert base - top == pytest.approx((bottom - base) / 2, abs=2)
    assert chart is not None
    assert chart.rows == (
        ("01 00:00", "450 KB", "1 kbit/s", "0 B", "0 kbit/s"),
        ("01 01:00", "0 B", "0 kbit/s", "900 KB", "2 kbit/s"),
    )
    assert [text for _, text in chart.up] == ["1 kbit/s", "0", "1 kbit/s", "2 kbit/s"]


def test_without_traffic_there_is_no_chart() -> None:
    assert plot.rates("hours", "Hours", axis(3), {}, ()) is None
    assert plot.amounts("days", "Days", axis(3), {BEGIN - HOUR: Counters(1, 1)}, ()) is None
    assert plot.months(axis(1), [Used(Counters(0, 0), 0, ())], GB, ()) is None
    assert plot.course(Course(BEGIN, BEGIN + HOUR, [(BEGIN, 0)], GB, None), axis(1), ()) is None


def test_a_block_is_a_band_over_its_time_and_a_short_one_is_still_seen() -> None:
    values = {BEGIN: Counters(1, 1)}
    blocks = [(BEGIN - HOUR, BEGIN + HOUR), (BEGIN + 2 * HOUR, BEGIN + 2 * HOUR + timedelta(seconds=1))]
    chart = plot.rates("hours", "Hours", axis(4), values, blocks)
    assert shape(chart, "blocked") == "M0 0H10V1000H0ZM20 0H21V1000H20Z"
    assert chart is not None
    assert chart.legend[-1].text == "Blocked"
    past = [(BEGIN - 3 * HOUR, BEGIN - HOUR), (BEGIN + 9 * HOUR, BEGIN + 10 * HOUR)]
    other = plot.rates("hours", "Hours", axis(4), values, past)
    assert other is not None
    assert "blocked" not in {found.kind for found in other.shapes}


def test_months_are_stacked_and_have_a_line_at_the_allowance() -> None:
    months = [Used(Counters(GB, 2 * GB), 3 * GB, (("in", GB), ("out", 2 * GB)))]
    chart = plot.months(axis(1), months, 4 * GB, ())
    assert shape(chart, "limit") == f"M0 {1000 - round(1000 / 1.08)}H10"
    assert shape(chart, "out").startswith(f"M2 {1000 - round(1000 / 1.08 / 4)}V")
    assert chart is not None
    assert [text for _, text in chart.up] == ["4 GB", "3 GB", "2 GB", "1 GB", "0"]
    assert chart.rows[0][1:] == ("1.00 GB", "2.00 GB", "3.00 GB")


def test_an_allowance_far_above_the_usage_does_not_flatten_the_chart() -> None:
    chart = plot.course(Course(BEGIN, BEGIN + 2 * HOUR, [(BEGIN, 0), (BEGIN + HOUR, GB)], 500 * GB, None), axis(2), ())
    assert chart is not None
    assert {found.kind for found in chart.shapes} == {"area", "used"}
    assert "The allowance is 500 GB." in chart.told


def test_the_course_ends_in_a_dashed_line_to_what_is_expected() -> None:
    chart = plot.course(Course(BEGIN, BEGIN + 2 * HOUR, [(BEGIN, 0), (BEGIN + HOUR, GB)], 2 * GB, 2 * GB), axis(2), ())
    top, middle = 1000 - round(1000 / 1.08), 1000 - round(500 / 1.08)
    assert shape(chart, "used") == f"M0 1000L10 {middle}"
    assert shape(chart, "expected") == f"M10 {middle}L20 {top}"
    assert chart is not None
    assert chart.told == "Used so far: 1.00 GB. Expected at the end: 2.00 GB. The allowance is 2.00 GB."


def test_labels_at_the_ends_are_left_out() -> None:
    assert [text for _, text in axis(100).labels][:2] == ["2", "3"]
    assert axis(100).labels[-1] == Label(97.0, "97")


@given(st.integers(1, 10**17), st.integers(2, 4))
def test_there_are_up_to_so_many_ticks_at_round_numbers(most: int, number: int) -> None:
    ticks = plot._ticks(most, number)
    assert 1 <= len(ticks) <= number
    assert all(0 < tick <= most for tick in ticks)
    assert re.fullmatch(r"[125]0*", str(ticks[0]))


sizes = st.lists(st.tuples(st.integers(0, 10**15), st.integers(0, 10**15)), min_size=1, max_size=40)


@given(sizes)
def test_no_shape_leaves_the_chart(found: list[tuple[int, int]]) -> None:
    values = {BEGIN + at * HOUR: Counters(*size) for at, size in enumerate(found)}
    for draw in (plot.rates, plot.amounts):
        chart = draw("x", "X", axis(len(found)), values, ())
        for kind, path in chart.shapes if chart else ():
            assert kind in ("in", "out")
            heights = [int(y) for y in re.findall(r"V(-?\d+)", path)]
            assert all(0 <= y <= plot.HEIGHT for y in heights)


def test_a_day_of_25_hours_is_placed_right() -> None:
    edges = [datetime(2026, 10, day, tzinfo=UTC) for day in (24, 25)] + [datetime(2026, 10, 26, 1, tzinfo=UTC)]
    long = Axis(edges, str, lambda at, _: "")
    assert long.place(datetime(2026, 10, 25, 12, 30, tzinfo=UTC)) == 15

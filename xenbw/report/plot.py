"""Charts of a history as shapes: paths, labels and the numbers behind them. Pure; a template draws them as SVG.

A chart is drawn into a box of any size, so its labels are placed in percent and stand outside of the SVG, which is
stretched.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from xenbw.model import ZERO, Counters
from xenbw.units import format_rate, format_size

HEIGHT = 1000
_CELL = 10  # the width of a value
_ROOM = 1.08  # how much higher a chart is than its largest value

Values = Mapping[datetime, Counters]
Spans = Sequence[tuple[datetime, datetime]]


class Label(NamedTuple):
    """A text at so many percent from the left or from the top."""

    at: float
    text: str


class Shape(NamedTuple):
    """A path, and its class in the stylesheet."""

    kind: str
    path: str


class Key(NamedTuple):
    """An entry of the legend: the class of a shape, and what it shows."""

    kind: str
    text: str


@dataclass(frozen=True)
class Chart:
    """told: the chart in a sentence, for people who do not see it. columns, rows: the table of its numbers."""

    name: str
    title: str
    told: str
    width: int
    shapes: tuple[Shape, ...]
    across: tuple[Label, ...]
    up: tuple[Label, ...]
    legend: tuple[Key, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    height: int = field(default=HEIGHT)


@dataclass(frozen=True)
class Axis:
    """The time axis of a chart: its values begin at edges[:-1], and the last one ends at edges[-1]. written: a
    value's time in the table. label: the text below a value, or "" for none. centred: it stands below its middle."""

    edges: Sequence[datetime]
    written: Callable[[datetime], str]
    label: Callable[[int, datetime], str]
    centred: bool = False

    # Many VMs share an axis, so its texts are made once.
    @cached_property
    def starts(self) -> Sequence[datetime]:
        return self.edges[:-1]

    @cached_property
    def times(self) -> tuple[str, ...]:
        """The time of each value as text."""
        return tuple(map(self.written, self.starts))

    @property
    def width(self) -> int:
        return _CELL * len(self.starts)

    @cached_property
    def labels(self) -> tuple[Label, ...]:
        middle, size = (0.5 if self.centred else 0), len(self.starts)
        found = (Label((at + middle) * 100 / size, self.label(at, start)) for at, start in enumerate(self.starts))
        return tuple(Label(round(at, 2), text) for at, text in found if text and 2 <= at <= 97)

    def place(self, moment: datetime) -> int:
        """Where a moment is on the axis; one outside of it is at its end."""
        if moment <= self.edges[0]:
            return 0
        if moment >= self.edges[-1]:
            return self.width
        at = bisect_right(self.edges, moment) - 1
        begin, end = self.edges[at : at + 2]
        return round(_CELL * (at + (moment - begin) / (end - begin)))


def rates(name: str, title: str, axis: Axis, values: Values, blocks: Spans) -> Chart | None:
    """Average rates, to the VM above the line and from it below; None if there are none."""
    seconds = (axis.edges[1] - axis.edges[0]).total_seconds()

    def rate(size: int) -> int:
        return round(size * 8 / seconds)

    found = [values.get(start, ZERO) for start in axis.starts]
    rows = tuple(
        (time, *(text for size in part for text in (format_size(size), format_rate(rate(size)))))
        for time, part in zip(axis.times, found, strict=True)
        if any(part)
    )
    if not rows:
        return None
    bits = [Counters(rate(part.in_bytes), rate(part.out_bytes)) for part in found]
    told = f"{_most(axis, bits, format_rate)} {_sum(found)}"
    columns = ("Time", "In", "In, average", "Out", "Out, average")
    return _mirrored(name, title, axis, bits, blocks, format_rate, told, (columns, rows), _steps)


def amounts(name: str, title: str, axis: Axis, values: Values, blocks: Spans) -> Chart | None:
    """Bytes, to the VM above the line and from it below; None if there are none."""
    found = [values.get(start, ZERO) for start in axis.starts]
    rows = tuple(
        (time, format_size(part.in_bytes), format_size(part.out_bytes))
        for time, part in zip(axis.times, found, strict=True)
        if any(part)
    )
    if not rows:
        return None
    told = f"{_most(axis, found, format_size)} {_sum(found)}"
    return _mirrored(name, title, axis, found, blocks, short_size, told, (("Day", "In", "Out"), rows), _bars)


def _mirrored(
    name: str,
    title: str,
    axis: Axis,
    found: Sequence[Counters],
    blocks: Spans,
    text: Callable[[int], str],
    told: str,
    table: tuple[tuple[str, ...], tuple[tuple[str, ...], ...]],
    draw: Callable[[Sequence[int], int], str],
) -> Chart:
    most_in, most_out = (max(sizes) for sizes in zip(*found, strict=True))
    # Both ways have the same scale, and as much room as they need.
    scale = HEIGHT / _ROOM / max(1, most_in + most_out)  # all rates of a few bytes are zero
    middle = round(HEIGHT * (1 - 1 / _ROOM) / 2 + most_in * scale)
    up = [middle - round(part.in_bytes * scale) for part in found]
    down = [middle + round(part.out_bytes * scale) for part in found]
    shapes = (*_bands(axis, blocks), Shape("in", draw(up, middle)), Shape("out", draw(down, middle)))
    marks = [Label(middle * 100 / HEIGHT, "0")]
    for value in _ticks(max(most_in, most_out), 3):
        for most, way in ((most_in, -1), (most_out, 1)):
            if value <= most:
                marks.append(Label(round((middle + way * value * scale) * 100 / HEIGHT, 2), text(value)))
    legend = (Key("in", "In, above the line"), Key("out", "Out, below it"), *_blocked(shapes))
    return Chart(name, title, told, axis.width, shapes, axis.labels, tuple(sorted(marks)), legend, *table)


class Used(NamedTuple):
    """A billing month: what went each way, and how much of it the allowance counts. parts: that as (class, bytes)."""

    usage: Counters
    used_bytes: int
    parts: tuple[tuple[str, int], ...]


def months(axis: Axis, found: Sequence[Used], limit: int | None, blocks: Spans) -> Chart | None:
    """What the allowance counted in each billing month, with a line at the present allowance."""
    most = max((one.used_bytes for one in found), default=0)
    if not most:
        return None
    top = max(most, limit if limit is not None and limit < 20 * most else 0)
    shapes, below = list(_bands(axis, blocks)), [HEIGHT] * len(found)
    for kind in ("in", "out"):
        sizes = [dict(one.parts).get(kind, 0) for one in found]
        above = [base - round(size * HEIGHT / _ROOM / top) for base, size in zip(below, sizes, strict=True)]
        path = "".join(_bar(at, base, y) for at, (base, y) in enumerate(zip(below, above, strict=True)) if base != y)
        shapes += [Shape(kind, path)] if path else []
        below = above
    legend = [Key(kind, text) for kind, text in (("in", "In"), ("out", "Out")) if any(s.kind == kind for s in shapes)]
    if limit is not None and limit <= top:
        y = HEIGHT - round(limit * HEIGHT / _ROOM / top)
        shapes.append(Shape("limit", f"M0 {y}H{axis.width}"))
        legend.append(Key("limit", f"Allowance, {format_size(limit)}"))
    rows = tuple(
        (time, *map(format_size, (*one.usage, one.used_bytes))) for time, one in zip(axis.times, found, strict=True)
    )
    at = max(range(len(found)), key=lambda index: found[index].used_bytes)
    told = f"Most was used in the month from {rows[at][0]} on: {format_size(most)}."
    told += "" if limit is None else f" The allowance is {format_size(limit)}."
    return Chart(
        *("months", "Billing months", told, axis.width, tuple(shapes), axis.labels, _up(top)),
        (*legend, *_blocked(shapes)),
        ("Month from", "In", "Out", "Used"),
        rows,
    )


class Course(NamedTuple):
    """The usage of a period as it grew: (moment, used bytes), oldest first. expected: at the end of the period, if
    that can be told."""

    start: datetime
    end: datetime
    points: Sequence[tuple[datetime, int]]
    limit: int | None
    expected: int | None


def course(given: Course, axis: Axis, blocks: Spans) -> Chart | None:
    """How the used bytes grew in the period, with the allowance and what is expected; None if nothing was used.
    axis: the days of the period."""
    now, used = given.points[-1]
    if not used:
        return None
    most, limit = max(used, given.expected or 0), given.limit
    top = max(most, limit if limit is not None and limit < 20 * most else 0)

    def at(moment: datetime, size: int) -> str:
        return f"{axis.place(moment)} {HEIGHT - round(size * HEIGHT / _ROOM / top)}"

    line = "M" + "L".join(at(*point) for point in given.points)
    shapes = [*_bands(axis, blocks), Shape("area", f"{line}V{HEIGHT}H{axis.place(given.start)}Z"), Shape("used", line)]
    legend = [Key("used", "Used")]
    told = f"Used so far: {format_size(used)}."
    if given.expected is not None:
        shapes.append(Shape("expected", f"M{at(now, used)}L{at(given.end, given.expected)}"))
        legend.append(Key("expected", "Expected, as in the last seven days"))
        told += f" Expected at the end: {format_size(given.expected)}."
    if limit is not None and limit <= top:
        shapes.append(Shape("limit", f"M0 {at(now, limit).split()[1]}H{axis.width}"))
        legend.append(Key("limit", f"Allowance, {format_size(limit)}"))
    told += "" if limit is None else f" The allowance is {format_size(limit)}."
    rows, by_end = [], dict[str, int]()
    for moment, size in given.points:
        by_end[axis.written(moment - timedelta(microseconds=1))] = size
    rows = [(day, format_size(size)) for day, size in by_end.items()]
    return Chart(
        *("period", "This period", told, axis.width, tuple(shapes), axis.labels, _up(top)),
        (*legend, *_blocked(shapes)),
        ("Until the end of", "Used"),
        tuple(rows[1:] if len(rows) > 1 else rows),
    )


def _steps(heights: Sequence[int], base: int) -> str:
    """The outline of adjacent columns."""
    path, before = [f"M0 {base}"], base
    for at, (y, after) in enumerate(pairwise((*heights, base)), 1):
        path.append(f"V{y}" if y != before else "")
        path.append(f"H{_CELL * at}" if after != y else "")
        before = y
    return "".join([*path, f"H{_CELL * len(heights)}V{base}Z"])


def _bars(heights: Sequence[int], base: int) -> str:
    return "".join(_bar(at, base, y) for at, y in enumerate(heights) if y != base)


def _bar(at: int, base: int, y: int) -> str:
    return f"M{_CELL * at + 2} {base}V{y}h{_CELL - 4}V{base}Z"


def _bands(axis: Axis, blocks: Spans) -> tuple[Shape, ...]:
    """The times of blocks; a short one is still seen."""
    paths = []
    for begin, end in blocks:
        if end <= axis.edges[0] or begin >= axis.edges[-1]:
            continue
        left = axis.place(begin)
        right = max(axis.place(end), left + max(1, axis.width // 300))
        paths.append(f"M{left} 0H{right}V{HEIGHT}H{left}Z")
    return (Shape("blocked", "".join(paths)),) if paths else ()


def _blocked(shapes: Sequence[Shape]) -> tuple[Key, ...]:
    return (Key("blocked", "Blocked"),) if any(shape.kind == "blocked" for shape in shapes) else ()


def _up(top: int) -> tuple[Label, ...]:
    marks = [Label(100.0, "0")]
    marks += [Label(round(100 - value * 100 / _ROOM / top, 2), short_size(value)) for value in _ticks(top, 4)]
    return tuple(sorted(marks))


def _ticks(most: int, number: int) -> list[int]:
    """Up to `number` round values up to `most`."""
    step = 1
    while most // step > number:
        digit = int(str(step)[0])
        step = step // digit * {1: 2, 2: 5, 5: 10}[digit]
    return [step * at for at in range(1, most // step + 1)]


def short_size(size: int) -> str:
    """A round size: 20 GB."""
    value, unit = float(size), "B"
    for bigger in ("KB", "MB", "GB", "TB", "PB"):
        if value < 1000:
            break
        value, unit = value / 1000, bigger
    return f"{value:g} {unit}"


def _most(axis: Axis, found: Sequence[Counters], text: Callable[[int], str]) -> str:
    most_in = max(range(len(found)), key=lambda at: found[at].in_bytes)
    most_out = max(range(len(found)), key=lambda at: found[at].out_bytes)
    return (
        f"Most in: {text(found[most_in].in_bytes)} ({axis.times[most_in]});"
        f" most out: {text(found[most_out].out_bytes)} ({axis.times[most_out]})."
    )


def _sum(found: Sequence[Counters]) -> str:
    return f"In all {format_size(sum(part.in_bytes for part in found))} in and" + (
        f" {format_size(sum(part.out_bytes for part in found))} out."
    )

"""What `xenbw top` draws: one frame as lines of a terminal, and the same as a plain table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from zoneinfo import ZoneInfo

from xenbw.model import State
from xenbw.report.table import Column, Screen, cut, pad, render, shown, whole, width
from xenbw.report.top import Rates, Shot, VmRow, ordered, ordered_vifs
from xenbw.units import format_size, three_digits

_UNKNOWN = "(VM not known)"
_NOBODY = "no VM has an interface here"
_INDENT = "  "
_LEAST_NAME = 10
_HEADING = 4  # lines above the rows
# Codes of ECMA-48 (SGR). These states are worth a look; other VMs have no colour.
_CODES = {
    State.WARNED: "33",
    State.OVER: "1;31",
    State.BLOCKED: "1;31",
    State.THROTTLED: "35",
    State.EXEMPT: "36",
    State.UNMETERED: "2",
}
_COUNTED = (State.WARNED, State.OVER, State.BLOCKED, State.THROTTLED, State.EXEMPT)


class _Place(NamedTuple):
    """A column after the names, and its width. rank: those of a lower rank are shown first, as far as there is room."""

    column: Column
    size: int
    rank: int


_PLACES = (
    _Place(Column("STATE"), 9, 2),
    _Place(Column("IN bit/s", right=True), 8, 0),
    _Place(Column("OUT bit/s", right=True), 9, 1),
    _Place(Column("IN pkt/s", right=True), 8, 4),
    _Place(Column("OUT pkt/s", right=True), 9, 5),
    _Place(Column("REFUSED", right=True), 7, 3),
    _Place(Column("USED", right=True), 8, 6),
)
HELP = (
    "sort by   i in   o out   p packets   x refused   u used   n name",
    "r   reverse the order",
    "v   show or hide the vifs of each VM",
    "?   show or hide this help",
    "q   quit",
    "",
    "in      to the VM, out from it; bits and packets per second",
    "refused what a block, an allowance or a throttle dropped, both ways",
    "used    what the allowance counts in this period",
)


@dataclass(frozen=True)
class View:
    """What of a shot is shown. sort: one of top.SORTS. vifs: whether each vif has a line. help: the keys instead of
    VMs."""

    sort: str = "out"
    reverse: bool = False
    vifs: bool = False
    help: bool = False


def frame(found: Shot, view: View, screen: Screen, height: int, zone: ZoneInfo) -> list[str]:
    """At most `height` lines, none longer than the screen is wide; a line's last column stays free."""
    room = max(1, screen.width - 1)
    lines = [*_heading(found, view, room, zone, ascii_only=screen.ascii)]
    if view.help:
        lines += ["", *(cut(line, room) for line in HELP)]
    else:
        lines += _table(found, view, screen, room, height - _HEADING)
    return lines[:height]


def plain(found: Shot, view: View) -> str:
    """All rows with all columns, as text for a pipe."""
    if not found.rows:
        return _NOBODY
    columns = (Column("VM"), *(place.column for place in _PLACES))
    return render(columns, [(name, *cells) for name, cells, _ in _rows(found, view)])


def _heading(found: Shot, view: View, room: int, zone: ZoneInfo, *, ascii_only: bool) -> Iterator[str]:
    """Who and when; the sums; how it is sorted, or the note."""
    states = Counter(row.state for row in found.rows)
    known = sum(row.account is not None for row in found.rows)
    host = shown(found.host, ascii_only=ascii_only)
    yield _joined(
        (
            cut(host, room),
            f"{found.at.astimezone(zone):%H:%M:%S}",
            f"{known} VM" if known == 1 else f"{known} VMs",
            *(f"{states[state]} {state}" for state in _COUNTED if states[state]),
            f"meter {found.meter}",
            f"{found.seconds:.1f} s",
        ),
        room,
    )
    total = found.total
    yield _joined(
        (
            f"in {_bits(total.in_bits)}",
            f"out {_bits(total.out_bits)}",
            f"refused {_bits(total.refused_bits)}",
            f"{_short(total.in_packets)} pkt/s in",
            f"{_short(total.out_packets)} pkt/s out",
        ),
        room,
    )
    if found.note:
        yield cut(shown(found.note, ascii_only=ascii_only), room)
    else:
        reversed_ = " (reversed)" if view.reverse else ""
        yield _joined((f"sorted by {view.sort}{reversed_}", "q quits", "? lists the keys"), room)


def _joined(parts: Iterable[str], room: int) -> str:
    """The first parts that fit into one line."""
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line else part
        if width(longer) > room:
            break
        line = longer
    return line


def _table(found: Shot, view: View, screen: Screen, room: int, height: int) -> Iterator[str]:
    """The titles and the rows that fit below each other."""
    places = _fitting(room)
    names = room - sum(_PLACES[at].size + 1 for at in places)
    titles = ("VM", *(place.column.title for place in _PLACES))
    yield _line(titles, places, names, "7" if screen.colour else "")
    rows = list(_rows(found, view))
    fitting = rows if len(rows) <= height else rows[: max(0, height - 1)]
    for name, cells, state in fitting:
        code = _CODES.get(state, "") if state is not None and screen.colour else ""
        yield _line((shown(name, ascii_only=screen.ascii), *cells), places, names, code)
    if not rows:
        yield cut(_NOBODY, room)
    elif len(fitting) < len(rows):
        yield cut(f"... {len(rows) - len(fitting)} more", room)


def _fitting(room: int) -> list[int]:
    """Which columns after the names are shown, from left to right."""
    room -= _LEAST_NAME
    found = []
    for at, place in sorted(enumerate(_PLACES), key=lambda item: item[1].rank):
        if place.size + 1 > room:
            break
        room -= place.size + 1
        found.append(at)
    return sorted(found)


def _line(cells: Sequence[str], places: Sequence[int], names: int, code: str) -> str:
    """One line of the table, in the colour of that code."""
    parts = [pad(cut(cells[0], names), names, right=False)]
    for at in places:
        place = _PLACES[at]
        parts.append(pad(cut(cells[at + 1], place.size), place.size, right=place.column.right))
    line = " ".join(parts)
    return f"\x1b[{code}m{line}\x1b[0m" if code else line.rstrip(" ")


def _rows(found: Shot, view: View) -> Iterator[tuple[str, tuple[str, ...], State | None]]:
    """The name, the cells and the state of each line."""
    for row in ordered(found.rows, view.sort, reverse=view.reverse):
        yield whole(row.name) if row.account else _UNKNOWN, _cells(row), row.state
        if view.vifs or row.account is None:
            for vif in ordered_vifs(row, view.sort, reverse=view.reverse):
                yield _INDENT + vif.interface, ("", *_numbers(vif.rates), ""), row.state


def _cells(row: VmRow) -> tuple[str, ...]:
    return (
        "" if row.state is None else row.state.value,
        *_numbers(row.rates),
        "" if row.account is None else format_size(row.used_bytes),
    )


def _numbers(rates: Rates) -> tuple[str, ...]:
    shown = (rates.in_bits, rates.out_bits, rates.in_packets, rates.out_packets, rates.refused_bits)
    return tuple(map(_short, shown))


def _short(number: int) -> str:
    """A rate in powers of 1000 with three digits: 0, 999, 1.50k, 12.3M."""
    return three_digits(number, ("", "k", "M", "G", "T", "P"))


def _bits(rate: int) -> str:
    """Bits per second in words: 144 bit/s, 12.3 Mbit/s."""
    short = _short(rate)
    return f"{short[:-1]} {short[-1]}bit/s" if short[-1].isalpha() else f"{short} bit/s"

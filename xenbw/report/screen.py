"""What a terminal gets: bars and colours, drawn with rich. Imported only to draw, since rich is slow to load.

Names are printed as text, never as rich's markup.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from xenbw.model import State
from xenbw.report.table import Column, Screen, cut, pad, shown, width

_GAP = 2
_SHORTEST, _SHORTEST_NAME = 6, 4
_STYLES = {
    State.OK: "green",
    State.WARNED: "yellow",
    State.OVER: "bold red",
    State.BLOCKED: "bold red",
    State.THROTTLED: "magenta",
    State.EXEMPT: "cyan",
    State.UNLIMITED: "",
    State.UNMETERED: "dim",
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table. share: it is a bar, filled to this share of its width. state: it has the state's colour."""

    text: str = ""
    share: float | None = None
    state: State | None = None


@dataclass(frozen=True)
class Place:
    """A column and when it is shown: rank 0 always, others if they have content, by rank as far as there is room.
    widest: its text is cut to that many columns; a bar has that many, or less if there is no room."""

    column: Column
    rank: int
    widest: int | None = None


def draw(places: Sequence[Place], rows: Sequence[Sequence[Cell]], screen: Screen) -> str:
    """The table with the columns that fit on the screen. No line is longer than the screen, if it has 30 columns."""
    sizes = _sizes(places, rows, screen)
    titles = {at: (places[at].column.title, "bold") for at in sizes}
    drawn = [{at: _piece(row[at], size, screen) for at, size in sizes.items()} for row in rows]
    right = {at for at in sizes if places[at].column.right}
    return _print([_line(pieces, sizes, right) for pieces in (titles, *drawn)], screen)


def _line(pieces: Mapping[int, tuple[str, str]], sizes: Mapping[int, int], right: Set[int]) -> Text:
    """A line of the table, of pieces with their styles by their place. right: the places that are aligned right."""
    line = Text()
    for at, (text, style) in pieces.items():
        line.append(" " * _GAP if line else "")
        line.append(pad(text, sizes[at], right=at in right), style)
    line.rstrip()
    return line


def _sizes(places: Sequence[Place], rows: Sequence[Sequence[Cell]], screen: Screen) -> dict[int, int]:
    """The widths of the columns that are shown, by their place, from left to right."""
    sizes: dict[int, int] = {}
    room = screen.width + _GAP
    for at, place in sorted(enumerate(places), key=lambda item: item[1].rank):
        cells = [row[at] for row in rows]
        is_bar = any(cell.share is not None for cell in cells)
        size = _size(place, cells, is_bar=is_bar, ascii_only=screen.ascii)
        if place.rank and not (is_bar or any(cell.text for cell in cells)):
            continue
        if is_bar and room - _GAP >= _SHORTEST:
            size = min(size, room - _GAP)
        if place.rank == 0 or size + _GAP <= room:
            sizes[at] = size
            room -= size + _GAP
    # The names give way if not even the columns that are always shown fit.
    sizes[0] = max(_SHORTEST_NAME, sizes[0] + min(0, room))
    return dict(sorted(sizes.items()))


def _size(place: Place, cells: Iterable[Cell], *, is_bar: bool, ascii_only: bool) -> int:
    """The width that a column wants: of its title or its longest text."""
    texts = (place.column.title, *(shown(cell.text, ascii_only=ascii_only) for cell in cells))
    longest = max(map(width, texts))
    return longest if place.widest is None else place.widest if is_bar else min(longest, place.widest)


def _piece(cell: Cell, size: int, screen: Screen) -> tuple[str, str]:
    """What is drawn for a cell, and its style."""
    style = "" if cell.state is None else _STYLES[cell.state]
    if cell.share is not None:
        return bar(cell.share, size, ascii_only=screen.ascii), style
    return cut(shown(cell.text, ascii_only=screen.ascii), size), style


def bar(share: float, size: int, *, ascii_only: bool) -> str:
    """A bar of that width, filled to this share of it; what is more than nothing fills one column at least."""
    full, empty = ("#", "-") if ascii_only else ("█", "░")
    filled = min(size, max(round(share * size), 1 if share > 0 else 0))
    return full * filled + empty * (size - filled)


def _print(lines: Iterable[Text], screen: Screen) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream,
        force_terminal=True,
        color_system="standard" if screen.colour else None,
        no_color=False,  # the caller has looked at NO_COLOR
        legacy_windows=False,
        markup=False,
        highlight=False,
        emoji=False,
    )
    for line in lines:
        console.print(line, soft_wrap=True)
    return stream.getvalue().rstrip("\n")

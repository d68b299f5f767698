"""Aligned text for terminals. Names come from guests and config files, and must not move the cursor."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from xenbw.text import printable

_GAP = "  "


@dataclass(frozen=True)
class Column:
    """A column's title. right: align to the right, for numbers."""

    title: str
    right: bool = False


@dataclass(frozen=True)
class Screen:
    """A terminal to draw on: its width in columns, whether it gets colours, and whether it shows only ASCII."""

    width: int
    colour: bool
    ascii: bool


def whole(name: str) -> str:
    """A VM's name for a screen: in quotes if it begins or ends with a blank, which would be invisible."""
    return name if name == name.strip() else f"'{name}'"


def shown(text: str, *, ascii_only: bool) -> str:
    """The text as the terminal can show it, on one line."""
    on_one_line = printable(text)
    return on_one_line.encode("ascii", "backslashreplace").decode("ascii") if ascii_only else on_one_line


def width(text: str) -> int:
    """How many terminal columns printable text takes: two for East Asian wide characters (UAX #11), none for marks that
    combine with the character before."""
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me")
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


def cut(text: str, size: int) -> str:
    """Printable text of at most that width; dots show that it goes on."""
    if width(text) <= size:
        return text
    while width(text) > max(0, size - 2):
        text = text[:-1]
    return (text + "..")[:size]


def render(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> str:
    """The table with its titles, one line per row, without trailing spaces or a final line break."""
    lines = [[column.title for column in columns]]
    lines += [[printable(cell) for cell in row] for row in rows]
    widths = [max(width(line[at]) for line in lines) for at in range(len(columns))]
    return "\n".join(
        _GAP.join(
            pad(cell, size, right=column.right) for cell, size, column in zip(line, widths, columns, strict=True)
        ).rstrip(" ")
        for line in lines
    )


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Labels and their values, one pair per line, the values aligned."""
    lines = [(label, printable(value)) for label, value in pairs]
    size = max(width(label) for label, _ in lines)
    return "\n".join(f"{pad(label, size, right=False)}{_GAP}{value}".rstrip(" ") for label, value in lines)


def local_time(moment: datetime, zone: ZoneInfo) -> str:
    """A time to the minute, in that time zone."""
    return moment.astimezone(zone).strftime("%Y-%m-%d %H:%M %Z")


def pad(text: str, size: int, *, right: bool) -> str:
    """Printable text with blanks up to that width."""
    room = " " * (size - width(text))
    return room + text if right else text + room

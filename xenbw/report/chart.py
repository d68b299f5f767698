"""A VM's history on a terminal: a bar for each hour, day and month."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from xenbw.model import Allowance, Amounts, Span
from xenbw.quota import used_bytes
from xenbw.report.screen import Cell, Place, draw
from xenbw.report.table import Column, Screen
from xenbw.units import format_size

_BAR = 30
_LABELS: Mapping[Span, tuple[str, str]] = {
    Span.HOUR: ("LAST 24 HOURS", "%Y-%m-%d %H:%M"),
    Span.DAY: ("LAST 30 DAYS", "%Y-%m-%d %a"),
    Span.MONTH: ("LAST 12 MONTHS", "%Y-%m"),
}

History = Mapping[Span, Sequence[tuple[datetime, Amounts]]]
"""For each span the latest values, oldest first."""


def history(found: History, allowance: Allowance, zone: ZoneInfo, screen: Screen) -> str:
    """A chart for each span that has values. A bar is as long as the share of the largest value in its chart."""
    charts = [
        draw(_places(span), list(_rows(span, values, allowance, zone)), screen)
        for span, values in found.items()
        if values
    ]
    return "\n\n".join(charts) or "no traffic was counted yet"


def _places(span: Span) -> tuple[Place, ...]:
    return (
        Place(Column(_LABELS[span][0]), 0),
        Place(Column(""), 1, _BAR),
        Place(Column("USED", right=True), 0),
        Place(Column("IN", right=True), 2),
        Place(Column("OUT", right=True), 3),
    )


def _rows(
    span: Span, values: Sequence[tuple[datetime, Amounts]], allowance: Allowance, zone: ZoneInfo
) -> Iterator[tuple[Cell, ...]]:
    sizes = [used_bytes(allowance.count, amounts.usage) for _, amounts in values]
    most = max(sizes) or 1
    for (start, amounts), size in zip(values, sizes, strict=True):
        yield (
            Cell(start.astimezone(zone).strftime(_LABELS[span][1])),
            Cell(share=size / most),
            *(Cell(format_size(shown)) for shown in (size, *amounts.usage)),
        )

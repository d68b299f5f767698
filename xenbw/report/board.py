"""The listing on a terminal: a bar for each VM, its state in colour, and when it will cross its allowance."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from xenbw.report.account import Account
from xenbw.report.screen import Cell, Place, draw
from xenbw.report.table import Column, Screen, local_time, whole
from xenbw.units import format_size

_BAR = 16
_PLACES = (
    Place(Column("VM"), 0, 40),
    Place(Column("STATE"), 0),
    Place(Column("RUNNING"), 8),
    Place(Column(""), 4, _BAR),
    Place(Column("%", right=True), 0),
    Place(Column("USED", right=True), 1),
    Place(Column("LIMIT", right=True), 3),
    Place(Column("FORECAST"), 2),
    Place(Column("IN", right=True), 6),
    Place(Column("OUT", right=True), 7),
    Place(Column("PERIOD ENDS"), 5),
)


def listing(found: Sequence[tuple[Account, datetime | None]], zone: ZoneInfo, screen: Screen) -> str:
    """Every VM with the moment at which it will be past its limit, if it will be."""
    return draw(_PLACES, [_row(account, crosses, zone) for account, crosses in found], screen)


def _row(account: Account, crosses: datetime | None, zone: ZoneInfo) -> tuple[Cell, ...]:
    state, limit, percent = account.standing.state, account.allowance.limit_bytes, account.percent
    known = percent is not None and not account.unmetered
    return (
        Cell(whole(account.vm.name) if account.vm.added_at else f"{whole(account.vm.name)} *"),
        Cell(state.value, state=state),
        Cell("yes" if account.running else "no"),
        Cell(share=percent / 100, state=state) if percent is not None and known else Cell(),
        Cell(str(percent) if known else "-"),
        Cell(account.size(account.used_bytes)),
        Cell("unlimited" if limit is None else format_size(limit)),
        Cell("" if crosses is None else f"crosses {short_time(crosses, zone)}"),
        Cell(account.size(account.usage.in_bytes)),
        Cell(account.size(account.usage.out_bytes)),
        Cell(local_time(account.period.end, zone)),
    )


def short_time(moment: datetime, zone: ZoneInfo) -> str:
    """A time of this year in that time zone: Nov 23 14:00."""
    local = moment.astimezone(zone)
    return f"{local:%b} {local.day} {local:%H:%M}"

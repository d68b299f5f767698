"""The traffic of VMs in the shape of `vnstat --json`, version 2 of its JSON, for dashboards that were made for vnStat.

Source: the output of vnStat 2.10, and vnstat(1), --json. Each VM is an interface there: rx is what came in to the VM,
tx what went out of it, in bytes. Dates and times are local, timestamps are seconds since 1970.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from xenbw import __version__
from xenbw.model import Amounts, Span
from xenbw.report.period import Values

Document = dict[str, Any]
# How many values vnStat keeps and prints by default: vnstat.conf(5), 5MinuteHours, HourlyDays, DailyDays,
# MonthlyMonths, YearlyYears, TopDayEntries. None: all.
KEPT: Mapping[Span, int | None] = {
    Span.FIVE_MINUTES: 48 * 12,
    Span.HOUR: 4 * 24,
    Span.DAY: 62,
    Span.MONTH: 25,
    Span.YEAR: None,
}
_TOP = 20
_NAMES = {
    Span.FIVE_MINUTES: "fiveminute",
    Span.HOUR: "hour",
    Span.DAY: "day",
    Span.MONTH: "month",
    Span.YEAR: "year",
}


@dataclass(frozen=True)
class Traffic:
    """What one VM shows as an interface. values: of each span, oldest first; those of days and years are all there
    are."""

    name: str
    created: datetime
    updated: datetime
    values: Mapping[Span, Values]


def text(found: Iterable[Traffic], zone: ZoneInfo) -> str:
    """The whole document on one line of ASCII, as vnStat prints it."""
    document = {
        "vnstatversion": f"xenbw {__version__}",
        "jsonversion": "2",
        "interfaces": [_interface(traffic, zone) for traffic in found],
    }
    return json.dumps(document, separators=(",", ":"))


def _interface(traffic: Traffic, zone: ZoneInfo) -> Document:
    created, updated = traffic.created.astimezone(zone), traffic.updated.astimezone(zone)
    years = [amounts for _, amounts in traffic.values[Span.YEAR]]
    days = sorted(traffic.values[Span.DAY], key=lambda day: (-sum(day[1].usage), day[0]))
    return {
        "name": traffic.name,
        "alias": "",
        "created": {"date": _date(created, Span.DAY), "timestamp": int(created.timestamp())},
        "updated": {"date": _date(updated, Span.DAY), "time": _time(updated), "timestamp": int(updated.timestamp())},
        "traffic": {
            "total": _bytes(sum(one.in_bytes for one in years), sum(one.out_bytes for one in years)),
            **{_NAMES[span]: _values(span, traffic.values[span], zone) for span in Span},
            "top": [_value(Span.DAY, *day, zone) for day in days[:_TOP]],
        },
    }


def _values(span: Span, values: Values, zone: ZoneInfo) -> list[Document]:
    """The latest values of a span."""
    kept: Sequence[tuple[datetime, Amounts]] = values[-(KEPT[span] or 0) :]
    return [_value(span, at, amounts, zone) for at, amounts in kept]


def _value(span: Span, at: datetime, amounts: Amounts, zone: ZoneInfo) -> Document:
    """One value. Its id is its timestamp, so that it keeps the id from call to call, as in vnStat's database."""
    local = at.astimezone(zone)
    return {
        "id": int(at.timestamp()),
        "date": _date(local, span),
        **({"time": _time(local)} if span < Span.DAY else {}),
        "timestamp": int(at.timestamp()),
        **_bytes(*amounts.usage),
    }


def _date(local: datetime, span: Span) -> Document:
    """As exact as the span: a month's date has no day, a year's has no month."""
    date = {"year": local.year}
    if span < Span.YEAR:
        date["month"] = local.month
    if span < Span.MONTH:
        date["day"] = local.day
    return date


def _time(local: datetime) -> Document:
    return {"hour": local.hour, "minute": local.minute}


def _bytes(rx: int, tx: int) -> Document:
    return {"rx": rx, "tx": tx}

"""Forecast when a VM will have used its allowance, if it goes on as in the last seven days. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from xenbw.accounting import HOUR, hour_of
from xenbw.model import Allowance, Counters
from xenbw.quota import used_bytes

PAST = timedelta(days=7)


class _Rate(NamedTuple):
    """Bytes to the guest and from it in an hour."""

    in_bytes: float
    out_bytes: float


def crossing(
    allowance: Allowance,
    used: Counters,
    hours: Sequence[tuple[datetime, Counters]],
    now: datetime,
    end: datetime,
    zone: ZoneInfo,
) -> datetime | None:
    """When `used` will be past the limit, or None: not before `end`, or it already is, or nothing can be told.

    hours: (UTC hour, usage) of the last seven days, oldest first, without hours that had none. Each hour of the day in
    the zone is taken to bring what it brought on average since the first of these hours; the present hour is left out,
    since it is not over. A VM that was seen for less than a day is taken to go on at its average.
    """
    limit = allowance.limit_bytes
    if limit is None or used_bytes(allowance.count, used) > limit:
        return None
    rates = _rates(hours, now, zone)
    in_bytes, out_bytes, at = float(used.in_bytes), float(used.out_bytes), now
    while rates and at < end:
        until = min(hour_of(at) + HOUR, end)
        rate, share = rates[_hour_of_day(at, zone)], (until - at) / HOUR
        more = _Rate(in_bytes + rate.in_bytes * share, out_bytes + rate.out_bytes * share)
        if used_bytes(allowance.count, Counters(int(more.in_bytes), int(more.out_bytes))) > limit:
            before = used_bytes(allowance.count, Counters(int(in_bytes), int(out_bytes)))
            grown = used_bytes(allowance.count, Counters(int(more.in_bytes), int(more.out_bytes))) - before
            return at + (until - at) * ((limit - before) / grown)
        (in_bytes, out_bytes), at = more, until
    return None


def metered(hours: Sequence[tuple[datetime, Counters]]) -> list[tuple[datetime, Counters]]:
    """The hours without sums that another program counted, whose times are no whole hours (ledger.usagelog.credit): a
    month's traffic is not that of an hour that comes again each day."""
    return [(hour, usage) for hour, usage in hours if hour == hour_of(hour)]


def _rates(hours: Sequence[tuple[datetime, Counters]], now: datetime, zone: ZoneInfo) -> dict[int, _Rate]:
    """The average of each hour of the day in the zone; empty if there is none to go by."""
    present = hour_of(now)
    sums, seen = dict.fromkeys(range(24), Counters(0, 0)), dict.fromkeys(range(24), 0)
    past = [(hour, usage) for hour, usage in metered(hours) if present - PAST <= hour < present]
    if not past:
        return {}
    for hour, usage in past:
        of_day = _hour_of_day(hour, zone)
        sums[of_day] = sums[of_day].plus(usage)
    at = past[0][0]
    while at < present:
        seen[_hour_of_day(at, zone)] += 1
        at += HOUR
    total = _average(Counters(*map(sum, zip(*sums.values(), strict=True))), sum(seen.values()))
    return {of_day: _average(sums[of_day], count) if count else total for of_day, count in seen.items()}


def _average(usage: Counters, count: int) -> _Rate:
    return _Rate(usage.in_bytes / count, usage.out_bytes / count)


def _hour_of_day(moment: datetime, zone: ZoneInfo) -> int:
    """The hour of the day, in the zone, in which the UTC hour of that moment began."""
    return hour_of(moment.astimezone(UTC)).astimezone(zone).hour


def expected(
    used: Counters, hours: Sequence[tuple[datetime, Counters]], now: datetime, end: datetime, zone: ZoneInfo
) -> Counters | None:
    """The usage at `end` if it goes on as crossing() takes it to, or None if there is nothing to go by."""
    rates = _rates(hours, now, zone)
    if not rates:
        return None
    in_bytes, out_bytes, at = float(used.in_bytes), float(used.out_bytes), now
    while at < end:
        until = min(hour_of(at) + HOUR, end)
        rate, share = rates[_hour_of_day(at, zone)], (until - at) / HOUR
        in_bytes, out_bytes, at = in_bytes + rate.in_bytes * share, out_bytes + rate.out_bytes * share, until
    return Counters(int(in_bytes), int(out_bytes))

"""One VM's billing month in numbers: days, top days and hours, and the 95th percentile as transit is billed. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from xenbw.model import NOTHING, Allowance, Amounts, Counters, Period, Rates, Span
from xenbw.quota import used_bytes

Values = Sequence[tuple[datetime, Amounts]]
"""(start, amounts), oldest first, without values that are zero."""

TOP = 5


@dataclass(frozen=True)
class Percentile:
    """The 95th percentile of `count` values that each cover `span`."""

    rates: Rates
    span: Span
    count: int


@dataclass(frozen=True)
class PeriodReport:
    """A VM's usage on this host in one period. kept: the span of the shortest values that are kept of all of it.
    percentile: None if that span is too long, or if none of it is over yet."""

    name: str
    allowance: Allowance
    period: Period
    usage: Counters
    days: Values
    hours: Values
    kept: Span | None
    percentile: Percentile | None

    @property
    def used_bytes(self) -> int:
        """The part of the usage that the allowance counts."""
        return used_bytes(self.allowance.count, self.usage)

    @property
    def percent(self) -> float | None:
        """used_bytes in percent of the limit, with one decimal; None without a limit."""
        limit = self.allowance.limit_bytes
        return None if limit is None else round(self.used_bytes * 100 / limit, 1)

    @property
    def counted(self) -> Amounts:
        """Everything that the history has of the period, with flood and refused bytes."""
        return total(self.days)

    def of(self, amounts: Amounts) -> int:
        """The part of amounts that the allowance counts."""
        return used_bytes(self.allowance.count, amounts.usage)

    def top(self, values: Values) -> Values:
        """The values with the most bytes that the allowance counts, largest first."""
        return sorted(values, key=lambda value: self.of(value[1]), reverse=True)[:TOP]


def total(values: Values) -> Amounts:
    """The sum of the values."""
    whole = NOTHING
    for _, amounts in values:
        whole = whole.plus(amounts)
    return whole


def percentile(values: Values, span: Span, since: datetime, until: datetime) -> Percentile | None:
    """The 95th percentile of each direction over all spans of that time that are over; those without a value are zero.

    As transit is billed: the rates of all spans in order, the highest 5 % of them left out, the highest that is left.
    """
    count = int((until - since).total_seconds()) // span
    if count <= 0:
        return None
    over = [amounts for start, amounts in values if start + timedelta(seconds=span) <= until]

    def rate(part: Callable[[Amounts], int]) -> int:
        return _left(sorted(map(part, over), reverse=True), count) * 8 // span

    rates = Rates(rate(lambda amounts: amounts.in_bytes), rate(lambda amounts: amounts.out_bytes))
    return Percentile(rates, span, count)


def _left(largest_first: Sequence[int], count: int) -> int:
    """The largest of `count` numbers once a twentieth is left out; numbers that are missing are zero."""
    left_out = count // 20
    return largest_first[left_out] if left_out < len(largest_first) else 0

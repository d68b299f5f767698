"""The merge of a VM's allowance in the book with that on this host: pure functions of values.

A field that only one side changed since both last agreed is taken from that side. If both changed it, the book wins,
and the lost value is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from xenbw.checks import LONGEST_LIST, LONGEST_REASON, MOST_TENANTS
from xenbw.model import Action, Allowance, Count
from xenbw.units import FASTEST, SLOWEST

Values = Mapping[str, Any]

FIELDS = (
    "limit_bytes",
    "unlimited",
    "count",
    "warn_percent",
    "warn_percents",
    "action",
    "reset_day",
    "rate_bits",
    "rate_in_bits",
    "hard_limit_bytes",
    "allow",
    "mail",
    "blocked_reason",
    "lifted_until",
)
# Fields that may be in a document; others are told as unknown.
_KNOWN = {*FIELDS, "_id", "name", "edited_at", "edited_by", "retired_at"}
_LARGEST = 2**63 - 1
_SHOWN = 60  # letters of a value in the book
_NAMED = 5  # unknown fields
_YEARS = range(1970, 9000)  # that every time zone can show


@dataclass(frozen=True)
class Merge:
    """take: fields that this host changes. give: fields to change in the book, if they still have the values that were
    read. base: what both agree on then. lost: this host's values that the book overruled. faults: what is wrong in the
    book."""

    take: Values
    give: Values
    base: Values
    lost: Values
    faults: tuple[str, ...]


def merge(local: Values, base: Values, book: Values, default: Allowance) -> Merge:
    """Merge this host's fields, those that both last agreed on, and the book's document. An impossible value in the
    book is ignored: the last good one is kept. default: what holds on this host for a field that is None."""
    take, give, agreed, lost = {}, {}, {}, {}
    unknown = sorted(book.keys() - _KNOWN)
    faults = [f"unknown field {field[:_SHOWN]!r}" for field in unknown[:_NAMED]]
    if unknown[_NAMED:]:
        faults.append(f"{len(unknown) - _NAMED:,} more unknown fields")
    if not isinstance(book.get("retired_at"), datetime | None):
        faults.append(f"retired_at = {repr(book['retired_at'])[:_SHOWN]}: not a date")
    for field in FIELDS:
        mine, before = local.get(field), base.get(field)
        theirs = book.get(field)
        wrong = fault(field, theirs)
        if wrong:
            faults.append(f"{field} = {repr(theirs)[:_SHOWN]}: not {wrong}")
            agreed[field] = before
        elif mine == theirs or (mine != before and theirs == before):
            if mine != theirs:
                give[field] = mine
            agreed[field] = mine
        else:
            take[field] = agreed[field] = theirs
            if mine != before:
                lost[field] = mine
    return _consistent(Merge(take, give, agreed, lost, tuple(faults)), local, base, default)


def _consistent(found: Merge, local: Values, base: Values, default: Allowance) -> Merge:
    """The merge without edits in the book that contradict the VM's other fields."""
    take, faults = dict(found.take), list(found.faults)
    for contradict, fields, rule in _CONTRADICTIONS:
        for field in fields:
            if field in take and contradict({**local, **take}, default):
                value = take.pop(field)
                faults.append(f"{field} = {value}: {rule}")
    ignored = found.take.keys() - take
    agreed = {field: base.get(field) if field in ignored else found.base[field] for field in FIELDS}
    lost = {field: value for field, value in found.lost.items() if field in take}
    return Merge(take, found.give, agreed, lost, tuple(faults))


def _has_no_rate(values: Values, default: Allowance) -> bool:
    action = values.get("action") or default.action
    return action == Action.THROTTLE and values.get("rate_bits") is None and default.rate is None


def _begins_otherwise(values: Values, _default: Allowance) -> bool:
    percents = values.get("warn_percents")
    return percents is not None and percents[0] != values.get("warn_percent")


def _is_below_limit(values: Values, default: Allowance) -> bool:
    limit = None if values.get("unlimited") else values.get("limit_bytes") or default.limit_bytes
    hard = values.get("hard_limit_bytes")
    return limit is not None and hard is not None and hard < limit


# When fields contradict one another. Edits of these fields are ignored, in this order, until they no longer do.
_CONTRADICTIONS = (
    (_has_no_rate, ("action", "rate_bits"), "action throttle needs rate_bits, or a rate in this host's [default]"),
    (_begins_otherwise, ("warn_percents",), "warn_percent must be the lowest of warn_percents"),
    (_is_below_limit, ("hard_limit_bytes", "limit_bytes", "unlimited"), "hard_limit_bytes must not be below the limit"),
)


def fault(field: str, value: Any) -> str | None:
    """What a value in the book should be, or None if it is good. The value None stands for the host's default."""
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    size = (whole and 0 < value <= _LARGEST, "a whole number of bytes above 0")
    rate = (whole and SLOWEST <= value <= FASTEST, f"a whole number of bits a second from {SLOWEST} to {FASTEST}")
    good, should = {
        "limit_bytes": size,
        "unlimited": (isinstance(value, bool), "true or false"),
        "count": (value in list(Count), "one of total, in, out, max"),
        "warn_percent": (whole and 1 <= value <= 100, "a whole number from 1 to 100"),
        "warn_percents": (isinstance(value, tuple), "a list of whole numbers from 1 to 100"),
        "action": (value in list(Action), "one of block, warn, throttle"),
        "reset_day": (whole and 1 <= value <= 31, "a whole number from 1 to 31"),
        "rate_bits": rate,
        "rate_in_bits": rate,
        "hard_limit_bytes": size,
        "allow": (
            isinstance(value, tuple),
            f"a list of at most {LONGEST_LIST} addresses or networks, none of which covers every address",
        ),
        "mail": (isinstance(value, tuple), f"a list of 1 to {MOST_TENANTS} mail addresses without names"),
        "blocked_reason": (
            isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_REASON,
            f"a line of text of at most {LONGEST_REASON} letters",
        ),
        "lifted_until": (isinstance(value, datetime) and value.year in _YEARS, "a date before the year 9000"),
    }[field]
    return None if good else should

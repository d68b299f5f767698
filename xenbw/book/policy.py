"""What the book and this host each say of a VM's allowance, brought together: pure functions of values.

A field that only one side changed since both agreed is taken from that side. Where both did, the book wins, and what
was lost is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from xenbw.checks import LONGEST_LIST, LONGEST_REASON
from xenbw.model import Action, Count

Values = Mapping[str, Any]

FIELDS = (
    "limit_bytes",
    "unlimited",
    "count",
    "warn_percent",
    "action",
    "reset_day",
    "allow",
    "blocked_reason",
    "lifted_until",
)
# Beside the fields above, what may stand in a document without being remarked on.
_KNOWN = {*FIELDS, "_id", "name", "edited_at", "edited_by", "retired_at"}
_LARGEST = 2**63 - 1
_SHOWN = 60  # letters of what somebody wrote into the book
_NAMED = 5  # of the fields that are not known
_YEARS = range(1970, 9000)  # which every time zone can show


@dataclass(frozen=True)
class Merge:
    """take: what this host changes to; give: what the book is to be changed to, if it still holds what it was read
    with; base: what both then agree on; lost: this host's values that the book overruled; faults: what is wrong in the
    book."""

    take: Values
    give: Values
    base: Values
    lost: Values
    faults: tuple[str, ...]


def merge(local: Values, base: Values, book: Values) -> Merge:
    """Bring together this host's fields, those both last agreed on, and the book's document. A value in the book that
    cannot be is as if it were not there: the last good one is kept."""
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
    return Merge(take, give, agreed, lost, tuple(faults))


def fault(field: str, value: Any) -> str | None:
    """What a value of the book should have been, or None when it is good. None stands for the host's default."""
    if value is None:
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    good, should = {
        "limit_bytes": (whole and 0 < value <= _LARGEST, "a whole number of bytes above 0"),
        "unlimited": (isinstance(value, bool), "true or false"),
        "count": (value in list(Count), "one of total, in, out, max"),
        "warn_percent": (whole and 1 <= value <= 100, "a whole number from 1 to 100"),
        "action": (value in list(Action), "block or warn"),
        "reset_day": (whole and 1 <= value <= 31, "a whole number from 1 to 31"),
        "allow": (
            isinstance(value, tuple),
            f"a list of at most {LONGEST_LIST} addresses or networks, and not all there is",
        ),
        "blocked_reason": (
            isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_REASON,
            f"a line of text of at most {LONGEST_REASON} letters",
        ),
        "lifted_until": (isinstance(value, datetime) and value.year in _YEARS, "a date before the year 9000"),
    }[field]
    return None if good else should

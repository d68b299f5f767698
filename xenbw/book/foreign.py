"""Queries for documents that any login may have written: the server leaves out values of a wrong type before Python
sees them.

A query for a text also matches an array with that text in it, Python has no date beyond the year 9999, and the sum of
two large numbers may not fit into the ledger.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

Stage = dict[str, Any]

LINE_RATE = 50_000_000_000
"""Bytes a second that a host can pass in one direction: 400 Gbit/s, more than any dom0's network card."""
SLACK = timedelta(days=1)
"""Tolerance: the clocks of hosts differ, and usage may be filed within less time than it passed in."""
LARGEST = 2**63 - 1
"""SQLite's and BSON's integers end here."""
LARGEST_DOCUMENT = 65_536
"""Bytes of a VM's document: several times the size of an allowance with the longest list of networks."""
NAMED = 10
"""How many documents that are left out are named one by one."""

_LETTERS = 200
# A VM's name is compared with the names here, so it is never shortened. xenstored takes no longer name (xs_wire.h,
# XENSTORE_PAYLOAD_MAX).
_NAME_LETTERS = 4096
_EARLIEST, _LATEST = datetime(1970, 1, 2, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
_COUNTED = ("in_bytes", "out_bytes")


def most(since: datetime, now: datetime) -> int:
    """The most bytes that one host can have passed in one direction since then."""
    return round((max(now - since, timedelta()) + SLACK).total_seconds()) * LINE_RATE


def text(field: str, letters: int = _LETTERS) -> Stage:
    """The field if it is a text, at most its first `letters`; else null."""
    return {"$cond": [{"$eq": [{"$type": f"${field}"}, "string"]}, {"$substrCP": [f"${field}", 0, letters]}, None]}


def date(field: str, latest: datetime = _LATEST) -> Stage:
    """The field if it is a date that every time zone can show, and not after `latest`; else null."""
    value = f"${field}"
    good = [{"$eq": [{"$type": value}, "date"]}, {"$gte": [value, _EARLIEST]}, {"$lte": [value, latest]}]
    return {"$cond": [{"$and": good}, value, None]}


def whole(field: str) -> Stage:
    """The field if it is a whole number from 0 on; else null."""
    value = f"${field}"
    good = [{"$in": [{"$type": value}, ["int", "long"]]}, {"$gte": [value, 0]}]
    return {"$cond": [{"$and": good}, value, None]}


def states() -> Stage:
    """The host's states as a list of {vm, state}, with null in place of what is not a text."""
    listed = {"$cond": [{"$isArray": "$states"}, "$states", []]}
    each = {"vm": text("$one.vm", _NAME_LETTERS), "state": text("$one.state")}
    return {"$map": {"input": listed, "as": "one", "in": each}}


def label() -> Stage:
    """A document's _id as text, of whatever type it is."""
    shown = {"$convert": {"input": "$_id", "to": "string", "onError": "?", "onNull": "?"}}
    return {"$substrCP": [shown, 0, _LETTERS]}


def usage(wanted: Stage, now: datetime) -> list[Stage]:
    """Stages that find usage documents, with null for each field of a wrong type."""
    fields = {"vm": text("vm", _NAME_LETTERS), "host": text("host"), "start": date("start", now + SLACK)}
    return [{"$match": wanted}, {"$project": {"_id": label(), **fields, **{name: whole(name) for name in _COUNTED}}}]


_GOOD = {name: {"$ne": None} for name in ("vm", "host", "start", *_COUNTED)}


def by_host(wanted: Stage, now: datetime) -> list[Stage]:
    """Stages that add up usage: one row for each VM, start and host in `_id`."""
    sums = {name: {"$sum": f"${name}"} for name in _COUNTED}
    return [
        *usage(wanted, now),
        {"$match": _GOOD},
        {"$group": {"_id": {"vm": "$vm", "start": "$start", "host": "$host"}, **sums}},
    ]


def left_out(wanted: Stage, now: datetime) -> list[Stage]:
    """Stages that find usage documents which `by_host` leaves out: NAMED, and one more if there are more."""
    return [*usage(wanted, now), {"$match": {"$nor": [_GOOD]}}, {"$limit": NAMED + 1}]


def unbelieved(vm: str, host: str, row: dict[str, Any]) -> str:
    """A sentence for a row of `by_host` with more bytes than `most`."""
    amounts = f"{float(row['in_bytes']):,.0f} in, {float(row['out_bytes']):,.0f} out"
    return f"the book: usage of {vm!r} on {host!r}: {amounts}: more than 400 Gbit/s can carry; it is left out"


def named(rows: list[dict[str, Any]]) -> list[str]:
    """A sentence for each row of `left_out`."""
    said = [
        f"the book: usage {row['_id']!r} has an impossible {', '.join(name for name in _GOOD if row[name] is None)};"
        " it is left out"
        for row in rows[:NAMED]
    ]
    return said + (["the book: more documents in usage are left out, see docs/mongodb.md"] if rows[NAMED:] else [])

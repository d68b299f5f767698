"""Rows of the ledger as values of the model, and back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache, wraps
from ipaddress import ip_address, ip_network
from typing import TypeVar

from xenbw.ledger.trouble import impossible
from xenbw.model import VM, Action, Address, Amounts, Binding, Block, Cause, Count, Counters, Digest, Kind, Mark, State

_T = TypeVar("_T")


# A commit writes the same few times into all its rows.
@lru_cache(maxsize=64)
def to_text(moment: datetime | None) -> str | None:
    """A time as the ledger writes it: UTC, fixed width, so that text order is time order."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")


def text_of(moment: datetime) -> str:
    """A time as the ledger writes it."""
    return str(to_text(moment))


def time_of(text: str) -> datetime:
    """A time as the ledger wrote it. Raises CorruptLedgerError for anything else."""
    try:
        return datetime.fromisoformat(text)
    except (ValueError, TypeError) as error:
        raise impossible(error) from None


def to_time(text: str | None) -> datetime | None:
    """The same for a column that may be empty."""
    return None if text is None else time_of(text)


def _or_damaged(make: Callable[[sqlite3.Row], _T]) -> Callable[[sqlite3.Row], _T]:
    """Turn the error for an impossible value in a row into CorruptLedgerError, like that for an unreadable page."""

    @wraps(make)
    def of(row: sqlite3.Row) -> _T:
        try:
            return make(row)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise impossible(error) from None

    return of


def _percents(text: str | None) -> tuple[int, ...] | None:
    return None if text is None else tuple(int(word) for word in text.split())


# The same bindings are read again with each hook's message.
@lru_cache(maxsize=1 << 13)
def _addresses(text: str) -> tuple[Address, ...]:
    return tuple(ip_address(word) for word in text.split())


@_or_damaged
def vm_of(row: sqlite3.Row) -> VM:
    return VM(
        id=row["id"],
        name=row["name"],
        found_at=time_of(row["found_at"]),
        added_at=to_time(row["added_at"]),
        limit_bytes=row["limit_bytes"],
        unlimited=bool(row["unlimited"]),
        count=None if row["count"] is None else Count(row["count"]),
        warn_percent=row["warn_percent"],
        warn_percents=_percents(row["warn_percents"]),
        action=None if row["action"] is None else Action(row["action"]),
        reset_day=row["reset_day"],
        rate=row["rate"],
        rate_in=row["rate_in"],
        hard_limit_bytes=row["hard_limit_bytes"],
        allow=None if row["allow"] is None else tuple(ip_network(word) for word in row["allow"].split()),
        mail=None if row["mail"] is None else tuple(row["mail"].split()),
        ips=_addresses(row["ips"]),
        config_file=row["config_file"],
        period_start=to_time(row["period_start"]),
        period_rule=row["period_rule"],
        state=State(row["state"]),
        state_reason=row["state_reason"],
        state_since=to_time(row["state_since"]),
        blocked_reason=row["blocked_reason"],
        lifted_until=to_time(row["lifted_until"]),
        threshold=row["threshold"],
        forecast_at=to_time(row["forecast_at"]),
    )


@_or_damaged
def binding_of(row: sqlite3.Row) -> Binding:
    return Binding(
        id=row["id"],
        vm_id=row["vm_id"],
        boot_id=row["boot_id"],
        domid=row["domid"],
        devid=row["devid"],
        kind=Kind(row["kind"]),
        ifindex=row["ifindex"],
        interface=row["interface"],
        mac=row["mac"],
        ips=_addresses(row["ips"]),
        bridge=row["bridge"],
        started_at=time_of(row["started_at"]),
        ended_at=to_time(row["ended_at"]),
        end_reason=row["end_reason"],
        counted=_amounts_of(row),
        mark=_mark_of(row),
        last_at=to_time(row["last_at"]),
    )


@_or_damaged
def ips_of(row: sqlite3.Row) -> tuple[Address, ...]:
    return _addresses(row["ips"])


def _amounts_of(row: sqlite3.Row) -> Amounts:
    return Amounts(*(row[column] for column in Amounts._fields))


def _mark_of(row: sqlite3.Row) -> Mark:
    kernel = Counters(row["last_in"], row["last_out"])
    if row["own_last"] is None:
        return Mark(kernel)
    *own, ahead_in, ahead_out = map(int, row["own_last"].split())
    return Mark(kernel, Amounts(*own), Counters(ahead_in, ahead_out))


def mark_columns(mark: Mark) -> tuple[int, int, str | None]:
    """last_in, last_out and own_last of a binding. own_last is our counters and `ahead` as words, or None."""
    own = None if mark.own is None else " ".join(map(str, (*mark.own, *mark.ahead)))
    return (*mark.kernel, own)


@_or_damaged
def digest_of(row: sqlite3.Row) -> Digest:
    return Digest(
        lives=row["lives"],
        started_at=time_of(row["started_at"]),
        ended_at=time_of(row["ended_at"]),
        end_reason=row["end_reason"],
        ips=tuple(dict.fromkeys(_addresses(row["ips"]))),
        counted=_amounts_of(row),
    )


@_or_damaged
def block_of(row: sqlite3.Row) -> Block:
    return Block(
        vm_id=row["vm_id"],
        cause=Cause(row["cause"]),
        reason=row["reason"],
        since=time_of(row["since"]),
        until=to_time(row["until"]),
        lifted_at=to_time(row["lifted_at"]),
        lift_reason=row["lift_reason"],
    )


def to_column(value: object) -> object:
    """A value of the model as SQLite keeps it."""
    if isinstance(value, datetime):
        return to_text(value)
    if isinstance(value, tuple | list):
        return " ".join(str(item) for item in value)
    return int(value) if isinstance(value, bool) else value

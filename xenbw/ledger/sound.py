"""Whether xenbw can have written a row of the ledger, checked value by value. SQLite stores anything in any column, and
a damaged disk changes anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache, partial
from ipaddress import ip_address, ip_network

from xenbw import checks
from xenbw.errors import UsageError
from xenbw.ledger.rows import to_text
from xenbw.ledger.runs import Run
from xenbw.model import Action, Cause, Count, Kind, Span, State
from xenbw.units import FASTEST, SLOWEST

Check = Callable[[object], bool]
Row = Mapping[str, object]

# Text that is not UTF-8 is read with surrogates in it (readable), which xenbw never writes.
ENCODING = ("utf-8", "surrogateescape")

# Bytes in an hour: sums of a thousand hours stay within SQLite's 64 bits. 400 Gbit/s are 2**48 bytes an hour.
_AN_HOUR = 2**53
_LARGEST = 2**63
# With a clock that starts in 1970, a period can have begun in 1969.
_FIRST, _LAST = "1969", "2200"


def readable(raw: bytes) -> str:
    """Any bytes as text: a text_factory for a connection."""
    return raw.decode(*ENCODING)


def whole(value: object, *, least: int = 0, beyond: int = _LARGEST) -> bool:
    """Whether the value is a whole number from `least` to below `beyond`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < beyond


def text(value: object) -> bool:
    """Whether the value is a text."""
    return isinstance(value, str) and (value.isascii() or _encodes(value))


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# The rows of one commit have the same few times.
@lru_cache(maxsize=1024)
def _time(value: str) -> bool:
    return _FIRST <= value < _LAST and to_text(datetime.fromisoformat(value)) == value


def time(value: object) -> bool:
    """Whether the value is a time as the ledger writes it."""
    return isinstance(value, str) and _may(_time, value)


def _may(parse: Callable[[str], object], value: str) -> bool:
    try:
        return parse(value) is not False
    except (ValueError, TypeError, OverflowError, UsageError):
        return False


def _parses(parse: Callable[[str], object]) -> Check:
    return lambda value: isinstance(value, str) and _may(parse, value)


def _words(parse: Callable[[str], object]) -> Check:
    return _parses(lambda value: [parse(word) for word in value.split()])


def _is_queue(value: object) -> bool:
    return value in ("mail", "command") or (isinstance(value, str) and value.startswith(("mail ", "webhook https://")))


def _own_last(value: str) -> bool:
    numbers = [int(word) for word in value.split()]
    return len(numbers) == 7 and min(numbers[:5]) >= 0 and all(-_LARGEST <= number < _LARGEST for number in numbers)


def _thresholds(value: str) -> bool:
    percents = [int(word) for word in value.split()]
    return bool(percents) and percents == sorted(set(percents)) and percents[0] >= 1 and percents[-1] <= 100


def _alive(value: str) -> bool:
    at, elapsed, boot = value.split(" ")
    return time(at) and 0 <= float(elapsed) < 2**33 and text(boot)


def _object(value: str) -> bool:
    return isinstance(json.loads(value), dict)


_ADDRESSES, _NETWORKS = _words(ip_address), _words(ip_network)
_FLAG, _HOUR = partial(whole, beyond=2), partial(whole, beyond=_AN_HOUR)
_RATE = partial(whole, least=SLOWEST, beyond=FASTEST + 1)
_SPANS = frozenset(map(int, Span))
_RAW, _REV = partial(whole, least=-_LARGEST), partial(whole, beyond=2**53)

# Checks of columns whose declared type does not say enough.
_CHECKS: Mapping[str, Mapping[str, Check]] = {
    "vm": {
        "unlimited": _FLAG,
        "count": _parses(Count),
        "warn_percent": partial(whole, least=0, beyond=101),
        "warn_percents": _parses(_thresholds),
        "threshold": partial(whole, beyond=101),
        "action": _parses(Action),
        "reset_day": partial(whole, least=1, beyond=32),
        "rate": _RATE,
        "rate_in": _RATE,
        "ips": _ADDRESSES,
        "allow": _NETWORKS,
        "mail": _parses(lambda value: checks.tenant_addresses(value.split())),
        "state": _parses(State),
        "book_base": _parses(_object),
    },
    "binding": {
        **dict.fromkeys(("domid", "devid", "ifindex"), partial(whole, beyond=2**31)),
        "kind": _parses(Kind),
        "ips": _ADDRESSES,
        "own_last": _parses(_own_last),
    },
    "usage": dict.fromkeys(("in_bytes", "out_bytes", "divided_bytes"), _HOUR),
    "digest": {"ips": _ADDRESSES},
    "unmetered": {"wholly": _FLAG},
    "block": {"cause": _parses(Cause)},
    "outbox": {"channel": _is_queue, "tries": partial(whole, beyond=2**31), "facts": _parses(_object)},
    "reading": {"in_raw": _RAW, "out_raw": _RAW},
    "history": {"span": _SPANS.__contains__},
    "history_run": {"span": _SPANS.__contains__, "amounts": _parses(lambda value: Run(Span.HOUR, 0, value))},
}
_RATES = _parses(lambda value: [int(word) for word in value.split()])
_TIMES = frozenset({"at", "hour", "since", "until", "last_at", "period_start", "state_since", "lifted_until"})
_META: Mapping[str, Check] = {
    "rev": _REV,
    "id": text,
    "alive": _parses(_alive),
    "protected": _NETWORKS,
    "rates": _RATES,
    "allow": _NETWORKS,
}


def is_time(column: str) -> bool:
    """Whether the column of that name holds times."""
    return column in _TIMES or column.endswith("_at")


class Shape:
    """The columns of a table and their checks. columns: name -> (declared type, whether it may be empty)."""

    def __init__(self, table: str, columns: Mapping[str, tuple[str, bool]]) -> None:
        self.table, self.columns = table, columns
        own: dict[str, Check] = {"rev": _REV, **_CHECKS.get(table, {})}
        self._checks = [
            (name, own.get(name) or _by_type(name, kind), optional) for name, (kind, optional) in columns.items()
        ]

    def faults(self, row: Row) -> list[str]:
        """The columns of a row with impossible values."""
        if self.table == "meta":
            key = row["key"]
            return [] if text(key) and _META.get(str(key), _scalar)(row["value"]) else ["value"]
        return [name for name, check, optional in self._checks if not _holds(row[name], check, optional=optional)]


def _holds(value: object, check: Check, *, optional: bool) -> bool:
    return optional if value is None else check(value)


def _by_type(name: str, kind: str) -> Check:
    if is_time(name):
        return time
    by_type: dict[str, Check] = {"INTEGER": whole, "TEXT": text}
    return by_type.get(kind, _scalar)


def _scalar(value: object) -> bool:
    return isinstance(value, int | float) or text(value)

"""Convert sizes and times to and from the text that an admin writes and reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

from xenbw.errors import UsageError

_FACTORS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", re.ASCII)
# 10Mbit, 10 Mbit/s; 1.25MB/s. Bytes need the "/s", or a size would pass for a rate.
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGkmg]?)(?:(bit|bps)(?:/s)?|B/s)", re.ASCII)
SLOWEST, FASTEST = 8_000, 100 * 10**9
"""The rates that a VM can be throttled to, in bits per second."""
# The largest integer of SQLite and BSON; a limit beyond 9.2 exabytes is a typing error anyway.
_LARGEST = 2**63 - 1


def parse_size(text: str | int | float) -> int:
    """Bytes from "500GB", "1.5 TiB" or a bare number of GB (as the 2014 tool's prompt accepted it).

    Raises UsageError for anything else, for less than one byte, and for more than 2^63 - 1.
    """
    found = _SIZE.fullmatch(str(text).strip())
    factor = _FACTORS.get((found[2] or "GB").upper()) if found else None
    if not found or factor is None:
        raise UsageError(f"not a size: {str(text)!r}", "write it like 500GB, 1.5TiB or 750MB; a bare number is GB")
    size = int(Fraction(Decimal(found[1])) * factor)
    if not 0 < size <= _LARGEST:
        raise UsageError(f"size out of range: {str(text)!r}", "from 1B to 9223372TB")
    return size


def format_percents(percents: Sequence[int]) -> str:
    """Thresholds as a person reads them: 80 %; 75, 90 and 100 %."""
    *others, last = map(str, percents)
    return f"{', '.join(others)} and {last} %" if others else f"{last} %"


def format_size(size: int) -> str:
    """Bytes as a person reads them, in powers of 1000 with three digits: 0 B, 999 B, 1.50 GB, 412 GB."""
    return three_digits(size, (" B", " KB", " MB", " GB", " TB", " PB"))


def three_digits(number: int, units: Sequence[str]) -> str:
    """A number with three digits and its unit. units: of 1, of 1000, of a million and so on, each written as is."""
    value, unit = float(number), units[0]
    for bigger in units[1:]:
        if value < 999.5:
            break
        value, unit = value / 1000, bigger
    if unit == units[0]:
        return f"{number}{unit}"
    return f"{value:.2f}{unit}" if value < 9.995 else f"{value:.1f}{unit}" if value < 99.95 else f"{value:.0f}{unit}"


def parse_rate(text: str) -> int:
    """Bits per second from "10Mbit", "1.5 Gbit/s" or, in bytes, "1.25MB/s".

    Raises UsageError for anything else, for less than 8 kbit/s, and for more than 100 Gbit/s.
    """
    found = _RATE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"not a rate: {text!r}", "write it like 10Mbit, 1.5Gbit or, in bytes, 1.25MB/s")
    bits = 1 if found[3] else 8
    rate = int(Fraction(Decimal(found[1])) * _FACTORS[f"{found[2]}B".upper()] * bits)
    if not SLOWEST <= rate <= FASTEST:
        raise UsageError(f"rate out of range: {text!r}", "from 8kbit to 100Gbit")
    return rate


def format_rate(rate: int) -> str:
    """Bits per second as a person reads them, in powers of 1000 with at most three digits: 64 kbit/s, 1.5 Mbit/s."""
    value, unit = rate / 1000, "kbit/s"
    for bigger in ("Mbit/s", "Gbit/s"):
        if value < 999.5:
            break
        value, unit = value / 1000, bigger
    return f"{value:.3g} {unit}"


def format_rates(rates: tuple[int, int]) -> str:
    """Two rates, to the guest and from it, in bits per second."""
    in_bits, out_bits = rates
    if in_bits == out_bits:
        return format_rate(out_bits)
    return f"{format_rate(in_bits)} in and {format_rate(out_bits)} out"


def format_duration(seconds: float) -> str:
    """A time as a person reads it: 45 s, 12 min, 3 h, 2 d; from two of a unit on in that unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC to the second, the form in every file and JSON document."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

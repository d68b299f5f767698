from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenbw.errors import UsageError
from xenbw.units import format_size, format_time, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500GB", 500 * 10**9),
        ("500 gb", 500 * 10**9),
        (" 1.5TiB ", 3 * 2**39),
        ("1B", 1),
        ("750MB", 750 * 10**6),
        ("1KiB", 1024),
        ("500", 500 * 10**9),
        (500, 500 * 10**9),
        (0.5, 5 * 10**8),
        ("0.1GB", 10**8),
        ("9223372036854775807B", 2**63 - 1),
    ],
)
def test_a_size_is_read_in_powers_of_1000_or_1024_and_a_bare_number_is_gb(text: str | float, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GB",
        "-1GB",
        "+1GB",
        "1,5GB",
        "1e3GB",
        ".5GB",
        "5.GB",
        "5G",
        "5GBit",
        "5 GB GB",
        "\u0665GB",
        "1_000",
        "nan",
        "inf",
    ],
)
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize("value", [True, None, [5]])
def test_a_value_of_another_kind_is_refused(value: object) -> None:
    with pytest.raises(UsageError):
        parse_size(value)  # type: ignore[arg-type]  # a configuration file may hold anything


@pytest.mark.parametrize("text", ["0", "0GB", "0.9B", "9223372036854775808B", "9" * 5000])
def test_a_size_below_one_byte_or_beyond_what_the_ledger_holds_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="out of range"):
        parse_size(text)


@given(st.integers(1, 2**63 - 1))
def test_a_number_of_bytes_is_read_back_exactly(size: int) -> None:
    assert parse_size(f"{size}B") == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (9_994, "9.99 KB"),
        (9_995, "10.0 KB"),
        (99_949, "99.9 KB"),
        (99_950, "100 KB"),
        (999_499, "999 KB"),
        (999_500, "1.00 MB"),
        (1_500_000_000, "1.50 GB"),
        (412_000_000_000, "412 GB"),
        (999_500_000_000, "1.00 TB"),
        (2**63 - 1, "9223 PB"),
    ],
)
def test_a_size_is_shown_with_three_digits(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(1, 10**15))
def test_a_shown_size_is_within_half_a_percent_of_the_truth(size: int) -> None:
    shown = format_size(size)
    number, unit = shown.split()
    assert (
        abs(float(number) * {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}[unit] - size)
        <= size / 200
    )


def test_a_time_is_shown_in_utc() -> None:
    moment = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    assert format_time(moment) == "2026-02-28T19:45:00Z"

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenbw.errors import UsageError
from xenbw.units import format_rate, format_size, format_time, parse_rate, parse_size


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


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10Mbit", 10**7),
        ("1.5 Gbit/s", 15 * 10**8),
        ("1.25MB/s", 10**7),
        ("64kbit", 64_000),
        (" 10 mbps ", 10**7),
        ("8000bit", 8_000),
        ("1kB/s", 8_000),
        ("100Gbit", 10**11),
    ],
)
def test_a_rate_is_read_in_bits_or_bytes_per_second(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    ["", "0", "10", "10M", "10MB", "10Mb", "-1Mbit", "1,5Mbit", "1e3Mbit", "Mbit", "10Tbit", "\u0665Mbit", "10MiB/s"],
)
def test_what_is_not_a_rate_is_refused_and_a_size_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="not a rate") as caught:
        parse_rate(text)
    assert caught.value.hint == "write it like 10Mbit, 1.5Gbit or, in bytes, 1.25MB/s"


@pytest.mark.parametrize("text", ["0Mbit", "7.999kbit", "101Gbit", "100.000000001Gbit", "12.6GB/s", "9" * 5000 + "bit"])
def test_a_rate_of_less_than_8_kbit_or_more_than_100_gbit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="rate out of range") as caught:
        parse_rate(text)
    assert caught.value.hint == "from 8kbit to 100Gbit"


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (8_000, "8 kbit/s"),
        (64_000, "64 kbit/s"),
        (999_499, "999 kbit/s"),
        (999_500, "1 Mbit/s"),
        (1_500_000, "1.5 Mbit/s"),
        (1_234_567, "1.23 Mbit/s"),
        (10**7, "10 Mbit/s"),
        (10**9, "1 Gbit/s"),
        (10**11, "100 Gbit/s"),
    ],
)
def test_a_rate_is_shown_with_at_most_three_digits(rate: int, text: str) -> None:
    assert format_rate(rate) == text


@given(st.integers(8_000, 10**11))
def test_a_shown_rate_is_read_back_within_half_a_percent(rate: int) -> None:
    assert abs(parse_rate(format_rate(rate)) - rate) <= rate / 200


def test_a_time_is_shown_in_utc() -> None:
    moment = datetime(2026, 3, 1, 1, 30, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    assert format_time(moment) == "2026-02-28T19:45:00Z"

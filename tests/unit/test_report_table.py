from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from xenbw.report.table import Column, facts, local_time, render, width
from xenbw.text import printable

COLUMNS = (Column("VM"), Column("USED", right=True), Column("NOTE"))


def test_aligns_text_on_the_left_and_numbers_on_the_right_without_trailing_spaces() -> None:
    rows = [("web1", "1.50 GB", ""), ("customer-42", "999 B", "over")]
    assert render(COLUMNS, rows).split("\n") == [
        "VM              USED  NOTE",
        "web1         1.50 GB",
        "customer-42    999 B  over",
    ]


def test_counts_east_asian_letters_as_two_columns_and_combining_marks_as_none() -> None:
    rows = [("東京", "1", "x"), ("cafe\u0301", "2", "y"), ("abcd", "3", "z")]
    assert render(COLUMNS, rows).split("\n") == [
        "VM    USED  NOTE",
        "東京     1  x",
        "cafe\u0301     2  y",
        "abcd     3  z",
    ]
    assert (width("東京"), width("cafe\u0301")) == (4, 4)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("two\nlines\r", r"two\nlines\r"),
        ("right\u202eleft", r"right\u202eleft"),
        ("wide\u200bzero", r"wide\u200bzero"),
        ("half\udcffbyte", r"half\udcffbyte"),
        ("del\x7f\x9bCSI", r"del\x7f\x9bCSI"),
        ("plain name-1.é 東", "plain name-1.é 東"),
    ],
)
def test_shows_what_could_move_the_cursor_as_an_escape(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert render((Column("VM"),), [(name,)]) == f"VM\n{shown}"
    assert facts([("VM", name)]) == f"VM  {shown}"


def test_a_table_without_rows_is_its_titles() -> None:
    assert render(COLUMNS, []) == "VM  USED  NOTE"


def test_aligns_the_values_of_facts() -> None:
    assert facts([("VM", "web1"), ("config file", "none"), ("", "more")]) == (
        "VM           web1\nconfig file  none\n             more"
    )


def test_shows_times_in_the_reader_s_zone() -> None:
    moment = datetime(2026, 6, 30, 22, 0, tzinfo=UTC)
    assert local_time(moment, ZoneInfo("Europe/Berlin")) == "2026-07-01 00:00 CEST"

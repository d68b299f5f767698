"""The version is the same in all four places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xenbw import __version__

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("file", "newest"),
    [
        ("debian/changelog", r"^xenbw \(([^)-]+)(?:-\d+)?\) "),
        ("CHANGELOG.md", r"^## \[(\d[^]]*)\]"),
    ],
)
def test_the_newest_entry_of_each_changelog_is_the_version_that_the_commands_print(file: str, newest: str) -> None:
    match = re.search(newest, (ROOT / file).read_text(), re.MULTILINE)
    assert match
    assert match[1] == __version__


def test_the_package_s_metadata_take_the_version_from_the_commands() -> None:
    assert 'version = { attr = "xenbw.__version__" }' in (ROOT / "pyproject.toml").read_text()

"""The documentation shows files that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.host import REPO

PAGE = REPO / "docs" / "architecture.md"
LISTINGS = re.findall(r"^\$ git ls-files (\S+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("folder", "shown"), LISTINGS, ids=[folder for folder, _ in LISTINGS])
def test_a_listing_is_what_git_says(folder: str, shown: str) -> None:
    there = sorted(str(path.relative_to(REPO)) for path in (REPO / folder).glob("*.py"))
    assert shown.splitlines() == there


def test_every_room_is_in_the_table() -> None:
    page = PAGE.read_text()
    rooms = [path.name for path in (REPO / "xenbw").iterdir() if (path / "__init__.py").is_file()]
    ground = [path.stem for path in Path(REPO / "xenbw").glob("*.py") if path.stem != "__init__"]
    assert [room for room in rooms if f"`{room}/`" not in page] == []
    assert [module for module in ground if f"`{module}`" not in page] == []


def test_every_picture_that_is_shown_is_there_and_small() -> None:
    shown = [
        page.parent / name
        for page in (REPO / "README.md", *(REPO / "docs").glob("*.md"))
        for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text())
    ]
    assert {path.resolve() for path in shown} == set((REPO / "docs/captures").iterdir())
    assert [path.name for path in shown if path.stat().st_size > 150_000] == []

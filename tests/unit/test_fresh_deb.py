"""tools/fresh-deb builds the package again when it was made of other files than there are now."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.host import REPO

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

# What tools/build-deb does, as far as fresh-deb can see.
BUILD = """\
#!/bin/sh
# A fresh-deb that has no --digest would call this again, without end.
[ -z "$BUILDING" ] || exit 1
export BUILDING=1
mkdir -p dist
touch dist/xenbw_1_all.deb
tools/fresh-deb --digest >dist/made-of
echo built
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree whose package has been built."""
    (tmp_path / "tools").mkdir()
    shutil.copy(REPO / "tools" / "fresh-deb", tmp_path / "tools")
    (tmp_path / "tools" / "build-deb").write_text(BUILD)
    (tmp_path / "tools" / "build-deb").chmod(0o755)
    (tmp_path / ".gitignore").write_text("/dist/\n")
    (tmp_path / "tests").mkdir()
    for name in ("module.py", "other.py", "tests/test_module.py"):
        (tmp_path / name).write_text(name)
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "add", "."], check=True)
    assert builds(tmp_path)
    return tmp_path


def builds(tree: Path) -> bool:
    """Run fresh-deb. Returns whether it built the package."""
    done = subprocess.run([tree / "tools" / "fresh-deb"], capture_output=True, text=True, check=True)
    return done.stdout == "built\n"


CHANGES: dict[str, Callable[[Path], object]] = {
    "changed": lambda tree: (tree / "module.py").write_text("changed"),
    "deleted": lambda tree: (tree / "module.py").unlink(),
    "renamed": lambda tree: (tree / "module.py").rename(tree / "renamed.py"),
    "made executable": lambda tree: (tree / "module.py").chmod(0o755),
    "new": lambda tree: (tree / "new.py").touch(),
    "package deleted": lambda tree: (tree / "dist" / "xenbw_1_all.deb").unlink(),
    "second package": lambda tree: (tree / "dist" / "xenbw_2_all.deb").touch(),
    "package of unknown files": lambda tree: (tree / "dist" / "made-of").unlink(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_package_that_is_not_made_of_these_files_is_built_again(tree: Path, change: Callable[[Path], object]) -> None:
    change(tree)
    assert builds(tree)


def test_a_package_of_the_same_files_is_kept_whatever_becomes_of_tests_and_times(tree: Path) -> None:
    (tree / "tests" / "test_module.py").write_text("changed")
    (tree / "module.py").touch()
    assert not builds(tree)


def test_a_file_that_is_deleted_from_the_work_tree_only_is_no_reason_to_build_for_ever(tree: Path) -> None:
    (tree / "module.py").unlink()
    assert [builds(tree), builds(tree)] == [True, False]

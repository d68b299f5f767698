"""Marks of latched domains, and what udev's question about an interface is answered."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from xenbw.blocks.latch_text import group
from xenbw.rundir.latched import Marks

PROGRAM = Path(__file__).resolve().parents[2] / "hooks" / "vif-group"


def ask(run_dir: Path, node: str) -> tuple[int, str]:
    done = subprocess.run([PROGRAM, run_dir / "latched", node], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_keep_marks_these_domains_and_no_others(tmp_path: Path) -> None:
    marks = Marks(str(tmp_path))
    assert marks.keep({7, 9}) == set()
    assert marks.keep({9, 10}) == {7}
    assert {mark.name for mark in (tmp_path / "latched").iterdir()} == {"9", "10"}


def test_without_marks_there_is_no_folder(tmp_path: Path) -> None:
    marks = Marks(str(tmp_path / "run"))
    assert marks.keep(set()) == set()
    marks.put(7)
    marks.put(7)
    marks.clear(8)
    assert (tmp_path / "run" / "latched" / "7").exists()
    marks.clear(7)
    marks.clear(7)
    assert list((tmp_path / "run").iterdir()) == []


def test_foreign_files_in_the_folder_stay(tmp_path: Path) -> None:
    (tmp_path / "latched").mkdir()
    (tmp_path / "latched" / "notes").touch()
    assert Marks(str(tmp_path)).keep(set()) == set()
    assert (tmp_path / "latched" / "notes").exists()


@pytest.mark.parametrize("domid", [1, 7, 32751])
def test_interfaces_of_a_marked_domain_get_its_group(tmp_path: Path, domid: int) -> None:
    Marks(str(tmp_path)).put(domid)
    assert ask(tmp_path, f"vif-{domid}-0") == (0, f"{group(domid)}\n")
    assert ask(tmp_path, f"vif-{domid}-12") == (0, f"{group(domid)}\n")


@pytest.mark.parametrize("node", ["vif-70-0", "vif-1-7", "vbd-7-0", "", "vif-", "vif-7x-0"])
def test_interfaces_of_other_domains_get_no_group(tmp_path: Path, node: str) -> None:
    Marks(str(tmp_path)).put(7)
    assert ask(tmp_path, node) == (1, "")


def test_without_marks_no_interface_gets_a_group(tmp_path: Path) -> None:
    assert ask(tmp_path, "vif-7-0") == (1, "")

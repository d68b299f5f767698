"""A vif script that calls the hook while dpkg unpacks the package, whose modules come one by one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.host import REPO

# As the program of every version calls it. It has no call to understand, and says so in the system's log.
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from xenbw.hook import main; main()"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    shutil.copytree(REPO / "xenbw", tmp_path / "xenbw", symlinks=False, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-BIS", "-c", _PROGRAM, str(folder)], stderr=subprocess.PIPE, env={})


@pytest.mark.parametrize("late", ["nft", "hook/gate.py"])
def test_it_waits_for_what_is_not_there_yet(unpacked: Path, late: str) -> None:
    place, aside = unpacked / "xenbw" / late, unpacked / "aside"
    place.rename(aside)
    hook = start(unpacked)
    time.sleep(0.2)
    assert hook.poll() is None
    aside.rename(place)
    _, said = hook.communicate(timeout=20)
    assert (hook.returncode, said) == (0, b"")


def test_it_gives_up_where_it_never_comes(unpacked: Path) -> None:
    shutil.rmtree(unpacked / "xenbw" / "nft")
    _, said = (hook := start(unpacked)).communicate(timeout=20)
    assert hook.returncode != 0
    assert b"ModuleNotFoundError" in said

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.support.console import Console
from xenbw.doctor import last

NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
def test_doctor_needs_root_and_says_so() -> None:
    # Other users may not enter pytest's own folders.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        console = Console(Path(folder))
        result = console.run_as(NOBODY, "doctor")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.endswith("(run it as root)\n")
        assert not last.path(console.run_dir).exists()


def test_an_unknown_option_is_a_usage_error(tmp_path: Path) -> None:
    result = Console(tmp_path).run("doctor", "--fix")
    assert (result.returncode, result.stdout) == (2, "")

"""Prometheus' own checker, which tools/setup fetches."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

_CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xenbw"
PROGRAM = shutil.which("promtool", path=f"{_CACHES}:{os.environ['PATH']}")


def promtool(*words: str, stdin: str = "") -> tuple[int, str]:
    """Its exit status and everything that it printed."""
    assert PROGRAM is not None
    done = subprocess.run([PROGRAM, *words], input=stdin.encode(), capture_output=True, timeout=60, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()

"""Small real programs for tests that hand messages to somebody else's."""

from __future__ import annotations

from pathlib import Path


def script(path: Path, *lines: str) -> Path:
    """A shell script that may be executed."""
    path.write_text("\n".join(("#!/bin/sh", *lines, "")), encoding="utf-8")
    path.chmod(0o755)
    return path


def sendmail(folder: Path, *before: str) -> Path:
    """A program that takes what it is called with, as a mail system's sendmail does, and keeps it: the arguments in
    <n>.args, one a line, the letter in <n>.letter, numbered from 1. before: lines of shell to run first."""
    return script(
        folder / "sendmail",
        *before,
        f"cd '{folder}' || exit 75",
        "n=1; while [ -e $n.args ]; do n=$((n + 1)); done",
        "printf '%s\\n' \"$@\" > $n.args",
        "cat > $n.letter",
    )

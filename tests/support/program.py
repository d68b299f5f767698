"""Small real programs for tests that hand messages to other programs."""

from __future__ import annotations

from pathlib import Path


def script(path: Path, *lines: str) -> Path:
    """An executable shell script."""
    path.write_text("\n".join(("#!/bin/sh", *lines, "")), encoding="utf-8")
    path.chmod(0o755)
    return path


def sendmail(folder: Path, *before: str) -> Path:
    """A program that accepts mail like a mail system's sendmail, and keeps it: the arguments in <n>.args, one per line,
    the mail in <n>.letter, numbered from 1. before: lines of shell to run first."""
    return script(
        folder / "sendmail",
        *before,
        f"cd '{folder}' || exit 75",
        "n=1; while [ -e $n.args ]; do n=$((n + 1)); done",
        "printf '%s\\n' \"$@\" > $n.args",
        "cat > $n.letter",
    )

"""Evidence for a failed test: the state of its miniature dom0, in a folder for each failure."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.support.dom0 import Dom0

FOLDER = Path(__file__).resolve().parents[2] / "build" / "failed"

_COMMANDS = {
    "nft.txt": ["nft", "-a", "list", "ruleset"],
    "iptables.txt": ["iptables-legacy-save", "-c"],
    "ip6tables.txt": ["ip6tables-legacy-save", "-c"],
    "links.txt": ["ip", "-d", "-s", "link"],
    "addresses.txt": ["ip", "addr"],
    "bridge.txt": ["bridge", "-d", "link"],
    "xenstore.txt": ["xenstore-ls", "-f", "/"],
}
_MOST_BYTES = 50_000_000
_MOST_LINES = 20


def folder_of(test: str) -> Path:
    """The folder with the evidence of a test. test: its node id."""
    return FOLDER / re.sub(r"[^A-Za-z0-9._-]+", "-", test.removeprefix("tests/"))[:150]


def current_test() -> str:
    """The node id of the running test."""
    return os.environ.get("PYTEST_CURRENT_TEST", "unknown").rpartition(" ")[0]


def keep(dom0: Dom0) -> None:
    """Save the state of a dom0: logs, ledger, files in its run directory, firewall, links, xenstore, capture."""
    folder = folder_of(current_test()) / dom0.directory.name
    folder.mkdir(parents=True, exist_ok=True)
    for name, argv in _COMMANDS.items():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = dom0.run(argv)
            (folder / name).write_text(done.stdout + done.stderr)
    shutil.copytree(dom0.directory, folder / "files", ignore=_too_special, dirs_exist_ok=True)


def log_ends(folder: Path) -> list[tuple[str, str]]:
    """The last lines of each log in a test's folder, with its name: perhaps nothing but a run's output can be had."""
    logs = [log for log in sorted(folder.glob("*/files/*.log")) if log.stat().st_size]
    return [(log.name, "\n".join(log.read_text(errors="replace").splitlines()[-_MOST_LINES:])) for log in logs]


def _too_special(directory: str, names: list[str]) -> set[str]:
    """Names in a directory that are neither files nor folders, or too large to keep."""
    left = set()
    for name in names:
        path = Path(directory) / name
        plain = path.is_file() and not path.is_symlink() and path.stat().st_size < _MOST_BYTES
        if not (plain or path.is_dir()) or name in {"scripts", "bin"}:
            left.add(name)
    return left

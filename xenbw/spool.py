"""What hooks could not write into the ledger and left in the run folder: a file of words for each call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from xenbw.enforce import overfile


def folder(run_dir: Path) -> Path:
    """Where they are."""
    return run_dir / "pending"


def files(spool: Path) -> list[Path]:
    """The calls, oldest first; none where there is no such folder."""
    try:
        return sorted(path for path in spool.iterdir() if path.suffix != ".new")
    except FileNotFoundError:
        return []


def words(path: Path) -> dict[str, str]:
    """What a hook was told in a call. Raises OSError or ValueError."""
    lines = path.read_text(encoding="ascii").splitlines()
    return {key: overfile.unescape(value) for key, value in (line.split("\t", 1) for line in lines)}


def started(spool: Path) -> Iterator[tuple[str, int]]:
    """(VM's name, domid) of each vif that began in a call. What is not understood is left to whoever takes it."""
    for path in files(spool):
        try:
            call = words(path)
            if call["starts"] == "1":
                yield call["name"], int(call["domid"])
        except (OSError, ValueError, KeyError):
            continue

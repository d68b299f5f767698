"""Read the notes (note.py) that hooks left in the run folder because they could not write to the ledger."""

from __future__ import annotations

import fcntl
import itertools
import os
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from xenbw.model import Address
from xenbw.rundir import overfile
from xenbw.rundir.note import BEGUN, UNFINISHED

# A hook finishes a note in a moment. Seconds after which nobody will finish it any more.
_STALE = 60.0


@dataclass(frozen=True)
class Start:
    """The start of a vif, as a hook noted it. name: its VM's; ended: whether a later call noted the vif's end.
    interface: its name when the hook ran."""

    name: str
    domid: int
    ifindex: int
    interface: str
    ips: frozenset[Address]
    ended: bool = False


def folder(run_dir: Path) -> Path:
    """The folder of the notes."""
    return run_dir / "pending"


def files(spool: Path) -> list[Path]:
    """The notes, oldest first; none if there is no such folder. Notes of hooks that still run are left out."""
    return [path for path in notes(spool) if not _held(path)]


def notes(spool: Path) -> list[Path]:
    """The notes, oldest first, also of hooks that still run; none if there is no such folder."""
    return sorted(path for path in _entries(spool) if path.suffix != UNFINISHED)


def tidy(spool: Path) -> None:
    """Remove the files of hooks that were killed before they finished their notes."""
    for path in _entries(spool):
        # A file that cannot be removed is no note, and does no harm.
        with suppress(OSError):
            # A hook that has just opened its file does not hold the lock yet.
            if path.suffix == UNFINISHED and time.time() - path.lstat().st_mtime > _STALE and not _held(path):
                path.unlink()


def _entries(spool: Path) -> list[Path]:
    try:
        return list(spool.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _held(path: Path) -> bool:
    """Whether the hook that wrote this file still runs."""
    if path.suffix not in (BEGUN, UNFINISHED):
        return False
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True  # the hook has just finished
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def words(path: Path) -> dict[str, str]:
    """The facts in a note. Raises OSError or ValueError."""
    # Opening a FIFO would wait for its writer.
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("not a file")
    lines = path.read_text(encoding="ascii").splitlines()
    return {key: overfile.unescape(value) for key, value in (line.split("\t", 1) for line in lines)}


def set_aside(path: Path) -> Path:
    """Move a file that is not a note into a folder beside the notes, for the admin to look at. Raises OSError."""
    beside = folder(path.parent.parent).with_suffix(".odd")
    beside.mkdir(mode=0o700, exist_ok=True)
    aside = beside / path.name
    # An earlier file, or a folder, may have the same name.
    for number in itertools.count(1):
        if not os.path.lexists(aside):
            break
        aside = beside / f"{path.name}.{number}"
    return path.rename(aside)


def started(spool: Path) -> list[Start]:
    """The vifs whose start is noted, also by hooks that still run: those have put blocks that would be taken away if
    nobody knew of the vif. Notes that cannot be read are skipped; the daemon handles them later."""
    found: dict[tuple[str, str, str], Start] = {}
    for path in notes(spool):
        try:
            call = _words_of_either(path)
            vif = (call["domid"], call["devid"], call["kind"])
            if call["starts"] == "1":
                ips = frozenset(ip_address(word) for word in call["ips"].split())
                found[vif] = Start(call["name"], int(call["domid"]), int(call["ifindex"]), call["interface"], ips)
            elif vif in found:
                found[vif] = replace(found[vif], ended=True)
        except (OSError, ValueError, KeyError):
            continue
    return list(found.values())


def _words_of_either(path: Path) -> dict[str, str]:
    """The facts in a note, or in the one by which its hook has just replaced it. Raises OSError or ValueError."""
    try:
        return words(path)
    except FileNotFoundError:
        return words(path.with_name(path.name.removesuffix(BEGUN)))


def running(starts: Iterable[Start]) -> dict[str, set[Address]]:
    """The addresses of vifs that have not ended, by their VMs' names."""
    found: dict[str, set[Address]] = {}
    for start in starts:
        if not start.ended:
            found.setdefault(start.name, set()).update(start.ips)
    return found

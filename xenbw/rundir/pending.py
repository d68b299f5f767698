"""What hooks could not write into the ledger and left in the run folder (note.py): a file of words for each call."""

from __future__ import annotations

import fcntl
import itertools
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from xenbw.model import Address
from xenbw.rundir import overfile
from xenbw.rundir.note import BEGUN


@dataclass(frozen=True)
class Start:
    """A vif that began in a call. name: its VM's; ended: in a later call."""

    name: str
    domid: int
    ips: frozenset[Address]
    ended: bool = False


def folder(run_dir: Path) -> Path:
    """Where they are."""
    return run_dir / "pending"


def files(spool: Path) -> list[Path]:
    """The calls, oldest first; none where there is no such folder. Of those that began and did not end, only whose hook
    was killed."""
    try:
        return sorted(path for path in spool.iterdir() if path.suffix != ".new" and not _held(path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _held(path: Path) -> bool:
    """Whether the hook that wrote a note is still at work."""
    if path.suffix != BEGUN:
        return False
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return True  # it is done, a moment ago
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def words(path: Path) -> dict[str, str]:
    """What a hook was told in a call. Raises OSError or ValueError."""
    # To open a FIFO is to wait for whoever writes it.
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("not a file")
    lines = path.read_text(encoding="ascii").splitlines()
    return {key: overfile.unescape(value) for key, value in (line.split("\t", 1) for line in lines)}


def set_aside(path: Path) -> Path:
    """Move what is no call out of the folder, beside it, for the admin to look at. Raises OSError."""
    beside = folder(path.parent.parent).with_suffix(".odd")
    beside.mkdir(mode=0o700, exist_ok=True)
    aside = beside / path.name
    # The name may be that of an earlier one, which need not be a file.
    for number in itertools.count(1):
        if not os.path.lexists(aside):
            break
        aside = beside / f"{path.name}.{number}"
    return path.rename(aside)


def started(spool: Path) -> list[Start]:
    """Each vif that began in a call. What is not understood is left to whoever takes it."""
    found: dict[tuple[str, str, str], Start] = {}
    for path in files(spool):
        try:
            call = words(path)
            vif = (call["domid"], call["devid"], call["kind"])
            if call["starts"] == "1":
                ips = frozenset(ip_address(word) for word in call["ips"].split())
                found[vif] = Start(call["name"], int(call["domid"]), ips)
            elif vif in found:
                found[vif] = replace(found[vif], ended=True)
        except (OSError, ValueError, KeyError):
            continue
    return list(found.values())


def running(starts: Iterable[Start]) -> dict[str, set[Address]]:
    """The addresses of vifs that have not ended, by their VMs' names."""
    found: dict[str, set[Address]] = {}
    for start in starts:
        if not start.ended:
            found.setdefault(start.name, set()).update(start.ips)
    return found

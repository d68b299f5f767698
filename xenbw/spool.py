"""What hooks could not write into the ledger and left in the run folder: a file of words for each call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from xenbw.enforce import overfile
from xenbw.model import Address


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
    """The calls, oldest first; none where there is no such folder."""
    try:
        return sorted(path for path in spool.iterdir() if path.suffix != ".new")
    except (FileNotFoundError, NotADirectoryError):
        return []


def words(path: Path) -> dict[str, str]:
    """What a hook was told in a call. Raises OSError or ValueError."""
    lines = path.read_text(encoding="ascii").splitlines()
    return {key: overfile.unescape(value) for key, value in (line.split("\t", 1) for line in lines)}


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

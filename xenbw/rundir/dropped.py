"""The marks of vifs that have a drop by tc (blocks/drop.py): /run/xenbw/dropped/<ifindex>.

A mark is there from before the drop until after it. It is empty unless xenbw made the vif's clsact for the drop.

The hook uses this at each boot of a blocked VM, so it imports next to nothing.
"""

from __future__ import annotations

import os

FOLDER = "dropped"
_MADE = b"clsact\n"


class Dropped:
    """The marks. run_dir: xenbw's folder under /run."""

    def __init__(self, run_dir: str) -> None:
        self._folder = f"{run_dir}/{FOLDER}"

    def put(self, ifindex: int, *, made: bool = False) -> None:
        """Mark a vif. made: whether xenbw made its clsact. Raises OSError."""
        os.makedirs(self._folder, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        mark = os.open(f"{self._folder}/{ifindex}", flags, 0o600)
        try:
            os.write(mark, _MADE if made else b"")
            os.utime(mark)  # to write nothing into a file that was empty leaves its time
        finally:
            os.close(mark)

    def made(self, ifindex: int) -> bool:
        """Whether xenbw made the vif's clsact."""
        try:
            return os.path.getsize(f"{self._folder}/{ifindex}") > 0
        except OSError:
            return False

    def clear(self, ifindex: int) -> None:
        """Remove the mark of a vif; it may be missing. Raises OSError."""
        try:
            os.unlink(f"{self._folder}/{ifindex}")
        except FileNotFoundError:
            pass

    def since(self) -> dict[int, float]:
        """The marked vifs, each with the time when its drop was put: ifindex -> seconds since 1970."""
        found = {}
        try:
            for entry in os.scandir(self._folder):
                if entry.name.isdecimal():
                    found[int(entry.name)] = entry.stat().st_mtime
        except OSError:
            pass  # no drop was ever put, or a hook or the daemon just removed a mark
        return found

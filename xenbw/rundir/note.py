"""What a hook has to record, as a file in the run folder until it is recorded: words for the daemon (see pending.py).

A hook writes it before it does anything else, so that one that is killed leaves word whose interface it was called for.
While the hook lives it holds a lock on the file, by which others know that it is not done.

The hook uses this at each boot of a VM, so it imports next to nothing.
"""

from __future__ import annotations

import fcntl
import os

from xenbw.rundir import overfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

BEGUN, _UNFINISHED = ".begun", ".new"


class Note:
    """The note of one call. run_dir: xenbw's folder under /run; at: when it was called."""

    def __init__(self, run_dir: str, at: str) -> None:
        self._folder = f"{run_dir}/pending"
        self._path = f"{self._folder}/{at}.{os.getpid()}"
        self._lock = -1

    def begin(self, words: Mapping[str, str]) -> None:
        """Write it, for the case that the hook does not live to record it. Raises OSError."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        path = f"{self._path}{_UNFINISHED}"
        self._lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._lock, _lines(words))
        os.replace(path, f"{self._path}{BEGUN}")

    def leave(self, words: Mapping[str, str]) -> None:
        """Leave it to the daemon, in place of what it said at the beginning. Raises OSError."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        path = f"{self._path}{_UNFINISHED}"
        # It names a customer: root's eyes only.
        with open(path, "wb", opener=overfile.for_root) as file:
            file.write(_lines(words))
        os.replace(path, self._path)
        self.withdraw()

    def withdraw(self) -> None:
        """What it said at the beginning is recorded. Raises OSError."""
        if self._lock >= 0:
            os.unlink(f"{self._path}{BEGUN}")
            os.close(self._lock)
            self._lock = -1


def _lines(words: Mapping[str, str]) -> bytes:
    return "".join(f"{key}\t{overfile.escape(value)}\n" for key, value in words.items()).encode("ascii")

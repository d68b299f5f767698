"""A hook's note for the daemon: a file in the run folder with the facts that the hook has to record (see pending.py).

The hook writes the note before it does anything else, so that the daemon knows the interface and its VM if the hook is
killed. The hook holds a lock on the file as long as it runs.

The hook uses this module at each boot of a VM, so it imports next to nothing.
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
    """The note of one call of the hook. run_dir: xenbw's folder in /run; at: the time of the call."""

    def __init__(self, run_dir: str, at: str) -> None:
        self._folder = f"{run_dir}/pending"
        self._path = f"{self._folder}/{at}.{os.getpid()}"
        self._lock = -1

    def begin(self, words: Mapping[str, str]) -> None:
        """Write the note, in case the hook is killed before it has recorded the facts. Raises OSError."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        path = f"{self._path}{_UNFINISHED}"
        self._lock = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._lock, _lines(words))
        os.replace(path, f"{self._path}{BEGUN}")

    def leave(self, words: Mapping[str, str]) -> None:
        """Replace the note by one from which the daemon is to record the facts. Raises OSError."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        path = f"{self._path}{_UNFINISHED}"
        # The note names a customer, so only root may read it.
        with open(path, "wb", opener=overfile.for_root) as file:
            file.write(_lines(words))
        os.replace(path, self._path)
        self.withdraw()

    def withdraw(self) -> None:
        """Remove the note of `begin`. Raises OSError."""
        if self._lock >= 0:
            os.unlink(f"{self._path}{BEGUN}")
            os.close(self._lock)
            self._lock = -1


def _lines(words: Mapping[str, str]) -> bytes:
    return "".join(f"{key}\t{overfile.escape(value)}\n" for key, value in words.items()).encode("ascii")

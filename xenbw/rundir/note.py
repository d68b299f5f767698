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

BEGUN, UNFINISHED = ".begun", ".new"


class Note:
    """The note of one call of the hook. run_dir: xenbw's folder in /run; at: the time of the call."""

    def __init__(self, run_dir: str, at: str) -> None:
        self._folder = f"{run_dir}/pending"
        self._path = f"{self._folder}/{at}.{os.getpid()}"
        self._lock = -1

    def begin(self, words: Mapping[str, str]) -> None:
        """Write the note, in case the hook is killed before it has recorded the facts. Raises OSError."""
        self._lock = self._write(words, f"{self._path}{BEGUN}")

    def leave(self, words: Mapping[str, str]) -> None:
        """Replace the note by one from which the daemon is to record the facts. Raises OSError."""
        os.close(self._write(words, self._path))
        self.withdraw()

    def withdraw(self) -> None:
        """Remove the note of `begin`, if there is one. Raises OSError."""
        if self._lock >= 0:
            _remove(f"{self._path}{BEGUN}")
            os.close(self._lock)
            self._lock = -1

    def _write(self, words: Mapping[str, str], path: str) -> int:
        """Write the words to an unfinished file, and give it this path once it is whole. Returns the open file, with
        the lock that tells the daemon that the hook still runs. Raises OSError; the file is removed then."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        unfinished, left = f"{self._path}{UNFINISHED}", _lines(words)
        # The note names a customer, so only root may read it.
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # When /run is almost full, only some of the bytes are taken, and the next write tells why.
            while left:
                left = left[os.write(file, left) :]
            os.replace(unfinished, path)
        except OSError:
            os.close(file)
            _remove(unfinished)
            raise
        return file


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # another program was faster


def _lines(words: Mapping[str, str]) -> bytes:
    return "".join(f"{key}\t{overfile.escape(value)}\n" for key, value in words.items()).encode("ascii")

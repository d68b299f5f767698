"""The file of metrics for node_exporter's textfile collector. A thread writes it, so that no disk ever delays the
daemon's loop."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

_HINTS = {
    errno.EROFS: "systemctl restart xenbwd, if the folder was made after its start; a folder other than the default"
    " needs ReadWritePaths= in a drop-in",
    errno.EACCES: "the folder must belong to root: xenbwd may not write into those of other users",
    errno.ENOENT: "create the folder, or set [metrics] file",
}


class Textfile:
    """Replaces the file as a whole, so that no reader sees half of it. `problem` says why the last try failed, or is
    None."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._written: Path | None = None
        self.problem: str | None = None

    def offer(self, path: Path, make: Callable[[], str]) -> None:
        """Write the text that make() returns, in a thread, and remove the file that was written at another path before.
        While an earlier text is still being written, this one is dropped: the next one has newer numbers."""
        self._start(path, lambda: self._write(path, make))

    def withdraw(self) -> None:
        """Remove the file that was written, if there is one, in a thread."""
        if self._written is None:
            self.problem = None
        else:
            self._start(self._written, self._remove)

    def _start(self, path: Path, work: Callable[[], str | None]) -> None:
        """Have the work, which returns its problem, done in a thread."""

        def run() -> None:
            self.problem = work()

        if self._thread is not None and self._thread.is_alive():
            self.problem = f"{path}: the disk has not taken it yet"
            return
        self._thread = threading.Thread(target=run, name="metrics", daemon=True)
        self._thread.start()

    def _write(self, path: Path, make: Callable[[], str]) -> str | None:
        left = None if self._written == path else self._remove()
        problem = _problem(path, lambda: replace(path, make()))
        # An old file that could not be removed is tried again the next time.
        self._written = path if left is None else self._written
        return problem or left

    def _remove(self) -> str | None:
        # The collector would go on to report the old numbers.
        path = self._written
        problem = None if path is None else _problem(path, lambda: path.unlink(missing_ok=True))
        self._written = path if problem else None
        return problem


def _problem(path: Path, work: Callable[[], None]) -> str | None:
    """Do the work; why it failed, or None."""
    try:
        work()
    except OSError as error:
        hint = _HINTS.get(error.errno or 0)
        return f"{path}: {error.strerror}" + (f" ({hint})" if hint else "")
    return None


def replace(path: Path, text: str, *, mode: int = 0o644, sync: bool = False) -> None:
    """Replace the file by one with this text, by default one that every user may read. Raises OSError; the old file
    then stays. sync: also after a power failure there is either the old text or the new one.

    The collector reads files whose names end in .prom only, so it does not see the new file before it is complete.
    """
    fresh = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(fresh, flags, 0o600), "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise

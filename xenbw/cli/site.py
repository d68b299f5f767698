"""A folder of pages: each is replaced as a whole, only if it changed, and removed once it is no longer wanted.

The file .xenbw-report.json in the folder lists the pages that xenbw made there. No other file is overwritten or
removed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from xenbw.cli.refusal import refused
from xenbw.errors import XenbwError
from xenbw.tell.textfile import replace

LIST = ".xenbw-report.json"
_HEAD = 1000  # bytes at the beginning of a file in which one of the marks must be
# What to do about the folder of the report, where it is not the same as about any other file.
_HINTS = {
    errno.ENOSPC: "make room there; pages that were not replaced stay as they were",
    errno.EDQUOT: "make room there; pages that were not replaced stay as they were",
    errno.EROFS: "choose another folder; for some xenbw-report.service needs ReadWritePaths= in a drop-in",
    errno.EACCES: "choose a folder that belongs to root",
    errno.EPERM: "choose a folder that belongs to root",
    errno.ENOTDIR: "name a folder",
    errno.EEXIST: "name a folder",
}


class Site:
    """The pages below a folder. marks: texts, one of which is near the beginning of each page that xenbw made. stamps:
    what to write in place of these texts; a page that differs only there is the same."""

    def __init__(self, folder: Path, marks: Collection[str], stamps: Mapping[str, str]) -> None:
        self.folder, self.written = folder, 0
        self._marks, self._stamps = tuple(mark.encode() for mark in marks), stamps
        self._known: dict[str, str] = {}
        self._wanted: set[str] = set()

    @contextmanager
    def writing(self, names: Collection[str]) -> Iterator[None]:
        """Inside, put each of these pages; all other pages that xenbw made are removed at the end.

        names: paths below the folder, at most one folder deep. Raises XenbwError, also if somebody else's file has one
        of these names, or another process writes there.
        """
        with _explained(self.folder):
            if not self.folder.is_dir():
                _make_folder(self.folder)
            lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._take(lock)
            self._known, self._wanted = self._read_list(), set(names)
            for part in sorted({name.partition("/")[0] for name in names if "/" in name}):
                self._enter(self.folder / part)
            for name in names:
                self._claim(name)
            # First the list, then the pages: a page that is not on it could never be removed.
            self._write_list({**dict.fromkeys(names, ""), **self._known})
            yield
            for name in self._known.keys() - self._wanted:
                self._remove(name)
            self._write_list({name: self._known[name] for name in self._wanted})
        finally:
            os.close(lock)

    def put(self, name: str, text: str) -> None:
        """Write one of the names' pages, unless the same is there already. Raises XenbwError."""
        path, whole = self.folder / name, text
        for stamp, value in self._stamps.items():
            whole = whole.replace(stamp, value)
        digest = f"{hashlib.sha256(text.encode(errors='replace')).hexdigest()} {len(whole.encode(errors='replace'))}"
        if self._known.get(name) == digest and _size(path) == int(digest.split()[1]):
            return
        with _explained(path):
            replace(path, whole)
        self._known[name] = digest
        self.written += 1

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise XenbwError(f"{self.folder}: another xenbw writes the report there", "try again later") from None

    def _enter(self, part: Path) -> None:
        """Make a folder of the site. One that is a link could lead anywhere."""
        with _explained(part):
            if part.is_symlink() or not part.is_dir():
                _make_folder(part)

    def _claim(self, name: str) -> None:
        path = self.folder / name
        if name not in self._known and os.path.lexists(path) and not self._is_ours(path):
            raise XenbwError(f"{path}: not made by xenbw, nothing was written", "move it away, or name another folder")

    def _is_ours(self, path: Path) -> bool:
        """Whether it is a file with one of the marks."""
        with _explained(path):
            if not stat.S_ISREG(path.lstat().st_mode):
                return False
            with path.open("rb") as file:
                head = file.read(_HEAD)
        return any(mark in head for mark in self._marks)

    def _remove(self, name: str) -> None:
        path = self.folder / name
        if os.path.lexists(path) and self._is_ours(path):
            with _explained(path):
                path.unlink()

    def _read_list(self) -> dict[str, str]:
        path = self.folder / LIST
        with _explained(path):
            if not os.path.lexists(path):
                return {}
            text = path.read_text(encoding="utf-8", errors="replace")
        try:
            files = json.loads(text)["files"]
            if all(_is_name(name) and isinstance(digest, str) for name, digest in files.items()):
                return dict(files)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass
        raise XenbwError(f"{path}: damaged, so it is unknown which pages xenbw made", f"empty {self.folder}")

    def _write_list(self, files: Mapping[str, str]) -> None:
        text = json.dumps({"made_by": "xenbw", "files": dict(sorted(files.items()))}) + "\n"
        with _explained(self.folder):
            # It has the names of all tenants' pages, which nobody else is to know.
            replace(self.folder / LIST, text, mode=0o600, sync=True)


def _is_name(name: object) -> bool:
    """Whether a name on the list is one below the folder."""
    return isinstance(name, str) and "\0" not in name and ".." not in name.split("/") and not name.startswith("/")


def _make_folder(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o755)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return -1


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """An OSError inside becomes one line."""
    try:
        yield
    except OSError as error:
        raise refused(path, error, _HINTS) from None

"""A file system that can run full: an unmounted tmpfs that a file descriptor of this process holds."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Self

# linux/mount.h
_FSOPEN_CLOEXEC = 1
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_FSMOUNT_CLOEXEC = 1

_MIB = 1024**2
_libc = ctypes.CDLL(None, use_errno=True)


class SmallDisk:
    """`size` bytes of disk at `path`, which any process of the same user can use while this process lives. Needs
    root."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __enter__(self) -> Self:
        context = _check(_libc.fsopen(b"tmpfs", _FSOPEN_CLOEXEC))
        try:
            _check(_libc.fsconfig(context, _FSCONFIG_SET_STRING, b"size", b"%d" % self._size, 0))
            _check(_libc.fsconfig(context, _FSCONFIG_CMD_CREATE, None, None, 0))
            self._mount = _check(_libc.fsmount(context, _FSMOUNT_CLOEXEC, 0))
        finally:
            os.close(context)
        self.path = Path(f"/proc/{os.getpid()}/fd/{self._mount}")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._mount)

    def fill(self, *, leave: int = 0) -> None:
        """Take all space except `leave` bytes; files of other processes stay."""
        free = os.statvfs(self.path)
        remaining = free.f_bavail * free.f_frsize - leave
        with self._filler.open("ab", buffering=0) as filler:
            while remaining > 0:
                try:
                    remaining -= filler.write(bytes(min(remaining, _MIB)))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    return

    def free(self) -> None:
        """Release the space that `fill` took."""
        self._filler.unlink()

    @property
    def _filler(self) -> Path:
        return self.path / "filler"


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result

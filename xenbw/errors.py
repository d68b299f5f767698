"""Errors for the admin: each is one line that says what happened and what to do next."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

# What to do when the system refuses a file or folder.
_HINTS = {
    errno.EDQUOT: "free some space",
    errno.ENOSPC: "free some space",
    errno.ENOENT: "create the folder above it first",
    errno.EROFS: "the file system is mounted read-only; choose another, or mount it to write on it",
}


class XenbwError(Exception):
    """A failure an admin can act on. `hint` says what to do next; the CLI prints both and exits with `exit_code`."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(XenbwError):
    """The request itself is wrong: a bad option, size, day or config value."""

    exit_code = 2


class MeterError(XenbwError):
    """The meter cannot be read at the moment."""


def refused(path: str | os.PathLike[str], error: OSError, hints: Mapping[int, str] | None = None) -> XenbwError:
    """The error for a file or folder that the system refuses. hints: what to do there in place of the usual, by
    errno."""
    number, usual = error.errno or 0, dict(_HINTS)
    if isinstance(error, PermissionError):
        usual[number] = "are you root?" if os.geteuid() else "not even root may; mount and lsattr may say why"
    if error.filename is None:
        usual.pop(errno.ENOENT, None)  # such as the working directory: it was removed
    return XenbwError(f"{path}: {error.strerror}", (usual | dict(hints or {})).get(number))

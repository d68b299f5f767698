"""The error for a file or folder that the system refuses, with what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from xenbw.errors import XenbwError

# What to do when the system refuses a file or folder.
_HINTS = {
    errno.EDQUOT: "free some space",
    errno.ENOSPC: "free some space",
    errno.ENOENT: "create the folder above it first",
    errno.EROFS: "the file system is mounted read-only; choose another, or mount it to write on it",
}


def refused(path: str | os.PathLike[str], error: OSError, hints: Mapping[int, str] | None = None) -> XenbwError:
    """The error for a file or folder that the system refuses. hints: what to do there in place of the usual, by
    errno."""
    number, usual = error.errno or 0, dict(_HINTS)
    if isinstance(error, PermissionError):
        usual[number] = "are you root?" if os.geteuid() else "not even root may; mount and lsattr may say why"
    if error.filename is None:
        usual.pop(errno.ENOENT, None)  # such as the working directory: it was removed
    return XenbwError(f"{path}: {error.strerror}", (usual | dict(hints or {})).get(number))

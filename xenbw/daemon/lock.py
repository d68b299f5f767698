"""The locks by which only one xenbwd runs."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from xenbw.errors import XenbwError


def only_one(path: Path) -> int:
    """Take the lock and return its descriptor; closing that ends the lock. Raises XenbwError if another daemon holds
    the lock, or the file cannot be made."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise XenbwError(f"{path}: {error.strerror}", "is the disk full or mounted read-only?") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise XenbwError("another xenbwd is running", "systemctl status xenbwd") from None
    return lock

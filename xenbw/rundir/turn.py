"""Whose turn it is to change null routes and the over file: one hook, or the daemon, at a time.

The hook uses this at each boot of a blocked VM, so it imports next to nothing.
"""

from __future__ import annotations

import fcntl
import os
import time

# Seconds for other hooks, and for other programs' lock on the tables. A block late is better than a boot held up.
PATIENCE = 0.4


def lock_of(run_dir: str) -> str:
    """The lock that hooks and whoever else writes the over file take while they change what is null-routed."""
    return f"{run_dir}/over.lock"


def take(path: str, locks: list[int]) -> bool:
    """Take a lock, which is held until the file that is put into `locks` is closed; whether it was to be had in time. A
    lock that cannot even be opened keeps nobody else either."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return True
    locks.append(lock)
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.005)
        else:
            return True
    return False

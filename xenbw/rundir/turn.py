"""The lock under which hooks and the daemon change null routes and the over file, one at a time.

The hook uses this module at each boot of a blocked VM, so it imports next to nothing.
"""

from __future__ import annotations

import fcntl
import os
import time

# Seconds to wait for other hooks, and for other programs' lock on the tables. A late block is better than a slow boot.
PATIENCE = 0.4


def lock_of(run_dir: str) -> str:
    """The path of the lock that hooks and the daemon hold while they change null routes and the over file."""
    return f"{run_dir}/over.lock"


def take(path: str, locks: list[int]) -> bool:
    """Take a lock, and return whether it was free in time. It is held until the file that is appended to `locks` is
    closed. If the lock cannot be opened, go on without it: nobody else can open it either."""
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

"""Time in emulation: the emulated dom0 is 10 to 15 times slower than a real one, but its clock is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

# A promised time is multiplied by both factors: how slow dom0 is, and how busy the machine under it may be. A test that
# something does not happen waits no longer than usual.
_EMULATION, _BUSY = 10.0, 8.0

# XENBW_HOOK_TIMEOUT, in place of the hook's 2 seconds.
HOOK_TIMEOUT = 160

# Seconds for everything without a promised time. A start of a guest takes 15 s on an idle machine, and took 240 s on a
# slow one.
PATIENCE = 1200.0

_POLL = 0.3


def scaled(seconds: float) -> float:
    """The seconds that a promise of so many seconds may take here."""
    return seconds * _EMULATION * _BUSY


def until(condition: Callable[[], _T], seconds: float = PATIENCE) -> _T:
    """Ask again and again until the condition is true; returns its last value, which is false if the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(_POLL)

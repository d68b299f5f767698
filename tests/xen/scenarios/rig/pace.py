"""Time in emulation. The emulated dom0 is 10 to 15 times slower than a real one; its clock is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

# A promise in seconds is multiplied by both: how slow dom0 is, and how busy the machine under it may be. What must not
# happen is never waited for longer.
_EMULATION, _BUSY = 10.0, 4.0

# XENBW_HOOK_TIMEOUT: the hook's 2 seconds.
HOOK_TIMEOUT = 80

# How long anything may take that is promised no time; a start of a guest takes 15 s on an idle machine.
PATIENCE = 480.0

_POLL = 0.3


def scaled(seconds: float) -> float:
    """What a promise of so many seconds means here."""
    return seconds * _EMULATION * _BUSY


def until(condition: Callable[[], _T], seconds: float = PATIENCE) -> _T:
    """The condition's first true value, asked for again and again; its last one, false, when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value or time.monotonic() > deadline:
            return value
        time.sleep(_POLL)

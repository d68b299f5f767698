"""Time on a busy machine. A test says what takes how long on an idle one; what is asserted has more room."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")
_POLL = 0.02

# The one factor: two cores on which ten programs want to run.
BUSY = 6.0


def busy(seconds: float) -> float:
    """What so many seconds of an idle machine may take on a busy one."""
    return seconds * BUSY


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait until a condition holds; whether it came to hold in time. seconds: on an idle machine."""
    return within(condition, busy(seconds))


def within(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, for so many seconds on any machine: for what may well never come to hold."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(_POLL)
    return True


def at_last(read: Callable[[], _T], expected: _T, seconds: float = 10) -> _T:
    """Wait until what is read is as expected; what it then is, or, when the time is up, still is. seconds: on an idle
    machine."""
    limit = time.monotonic() + busy(seconds)
    while (found := read()) != expected and time.monotonic() < limit:
        time.sleep(_POLL)
    return found

"""Time limits on a busy machine. A test gives the time on an idle machine; the real limit is longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

_T = TypeVar("_T")
_POLL = 0.02

# The factor: two cores on which ten programs want to run.
BUSY = 6.0


def busy(seconds: float) -> float:
    """How many seconds a busy machine may need for so many seconds of an idle one."""
    return seconds * BUSY


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait until a condition holds. Returns whether it did in time. seconds: on an idle machine."""
    return within(condition, busy(seconds))


def within(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, for so many seconds on any machine: for conditions that may never hold."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(_POLL)
    return True


def at_last(read: Callable[[], _T], expected: _T, seconds: float = 10) -> _T:
    """Wait until a read value is as expected. Returns the last value. seconds: on an idle machine."""
    limit = time.monotonic() + busy(seconds)
    while (found := read()) != expected and time.monotonic() < limit:
        time.sleep(_POLL)
    return found


def patient(argv: Sequence[_T]) -> Sequence[_T | str]:
    """The command, with the option to wait if it is one of iptables' legacy tools: while xenbwd holds iptables' lock,
    for some milliseconds now and then, they fail at once without it."""
    return (argv[0], "-w", *argv[1:]) if argv[0] in ("iptables-legacy", "ip6tables-legacy") else argv

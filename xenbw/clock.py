"""Time: one door to the system's clocks, and a timeline that a jumping wall clock cannot bend."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Protocol

# Kernel and clock agree to well under a second; a larger difference means that somebody set the clock.
JUMP = timedelta(seconds=60)


@dataclass(frozen=True)
class Tick:
    """What the clocks say at one moment: wall time, and seconds since boot (suspend included)."""

    wall: datetime
    elapsed: float


class Clock(Protocol):
    """Where ticks come from; tests pass their own."""

    def tick(self) -> Tick: ...


class SystemClock:
    """The machine's own clocks."""

    def tick(self) -> Tick:
        return Tick(datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME))


Witness = Callable[[float, float], bool]
"""witness(since, now) -> whether the wall clock was found synchronised by a question put at `since` or later. Both are
seconds since boot. Called at each tick while the clock is in doubt, and at no other time."""


def boot_id() -> str:
    """The kernel's name for this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True)
class Moment:
    """A time to account by. trusted False: the wall clock may be wrong, so no period opens and no block lifts."""

    at: datetime
    trusted: bool


def set_by(before: datetime, earlier: Tick, now: datetime, tick: Tick) -> timedelta:
    """By how much the clock was set between two moments: what is between them beside the seconds that passed. Nothing
    for what a clock may be off."""
    drift = (now - before) - timedelta(seconds=tick.elapsed - earlier.elapsed)
    return drift if abs(drift) > JUMP else timedelta()


class Trust(Enum):
    """Why the wall clock is believed, or that it is not."""

    DOUBTED = "doubted"
    SYNCHRONISED = "synchronised"  # the witness vouched for it
    UNCHALLENGED = "unchallenged"  # it ran evenly for as long as is waited


class Timeline:
    """Moments from ticks. A clock that jumped, or may never have been right since boot, is in doubt: it is believed
    once the witness calls it synchronised, or after `wait` seconds without another jump; until then time goes on from
    the last good moment.

    `last` is the tick at which the ledger was last committed in this boot, or None.
    """

    def __init__(self, known: datetime | None, last: Tick | None, wait: float, witness: Witness) -> None:
        self._known, self._last, self._wait, self._witness = known, last, wait, witness
        self._doubted_at = 0.0  # seconds since boot: at boot the clock is whatever the battery kept
        self.trust = Trust.DOUBTED

    def moment(self, tick: Tick) -> Moment:
        last, self._last = self._last, tick
        if last is not None:
            drift = (tick.wall - last.wall) - timedelta(seconds=tick.elapsed - last.elapsed)
            if abs(drift) > JUMP:
                self.trust, self._doubted_at = Trust.DOUBTED, tick.elapsed
        if self.trust is Trust.DOUBTED:
            self.trust = self._verdict(tick.elapsed)
        trusted = self.trust is not Trust.DOUBTED
        if trusted or self._known is None:
            self._known = tick.wall
        elif last is not None:
            self._known += timedelta(seconds=max(0.0, tick.elapsed - last.elapsed))
        else:
            self._known = max(self._known, tick.wall)
        return Moment(self._known, trusted)

    def _verdict(self, elapsed: float) -> Trust:
        if elapsed - self._doubted_at >= self._wait:
            return Trust.UNCHALLENGED
        return Trust.SYNCHRONISED if self._witness(self._doubted_at, elapsed) else Trust.DOUBTED

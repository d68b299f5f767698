"""Time: one door to the system's clocks, a timeline that a jumping wall clock cannot bend, and systemd-timedated, which
knows whether the clock is synchronised, by whatever time service the host has."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Protocol

from xenbw.runner import CommandError, Runner

# Kernel and clock agree to well under a second; a larger difference means that somebody set the clock.
JUMP = timedelta(seconds=60)

# It answers from the kernel's own state (adjtimex, maxerror below 16 s: ntp_synced() in systemd's time-util.c), so for
# chrony, ntpd and timesyncd alike. Who asks needs no adjtimex, which ProtectClock= takes away.
_QUESTION = ("timedatectl", "show", "--property=NTPSynchronized", "--value")

# D-Bus gives up after 25 s by itself.
_LIMIT = 30.0
_PAUSE = 10.0


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


def synchronised(run: Runner, timeout: float = _LIMIT) -> bool:
    """Whether the clock is synchronised; False where nobody answers: no timedated, no D-Bus, or neither in `timeout`
    seconds."""
    try:
        answer = run(_QUESTION, timeout=timeout)
    except CommandError:
        return False
    return answer.status == 0 and answer.stdout.strip() == b"yes"


class Timedated:
    """A witness that lets nobody wait: it asks in a thread, one question at a time, ten seconds from
    one to the next, and has the answer at some later tick."""

    def __init__(self, run: Runner) -> None:
        self._run = run
        self._asked_at = float("-inf")
        self._vouched = False
        self._asking: threading.Thread | None = None

    def vouches(self, since: float, now: float) -> bool:
        """Whether a question that was put at `since` or later was answered with yes; asks another where it is time."""
        if self._asking is not None and self._asking.is_alive():
            return False
        if self._vouched and self._asked_at >= since:
            return True
        if now - self._asked_at >= _PAUSE:
            self._asked_at, self._vouched = now, False
            self._asking = threading.Thread(target=self._ask, name="timedated", daemon=True)
            self._asking.start()
        return False

    def _ask(self) -> None:
        self._vouched = synchronised(self._run)

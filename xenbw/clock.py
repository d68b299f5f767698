"""Time: the system's clocks, a timeline that ignores jumps of the wall clock, and systemd-timedated, which knows
whether the clock is synchronised, whichever time service the host uses."""

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

# The wall clock and the time since boot drift apart by well under a second; a difference of this size means that
# somebody set the clock.
JUMP = timedelta(seconds=60)

# timedated answers from the kernel's own state (adjtimex, maxerror below 16 s: ntp_synced() in systemd's time-util.c),
# so this works with chrony, ntpd and timesyncd. The daemon cannot call adjtimex itself: ProtectClock= forbids it.
_QUESTION = ("timedatectl", "show", "--property=NTPSynchronized", "--value")

# Longer than D-Bus itself waits, which is 25 s.
_LIMIT = 30.0
_PAUSE = 10.0


@dataclass(frozen=True)
class Tick:
    """The clocks at one moment: wall time, and seconds since boot (suspend included)."""

    wall: datetime
    elapsed: float


class Clock(Protocol):
    """The source of ticks; tests pass their own."""

    def tick(self) -> Tick: ...


class SystemClock:
    """The machine's own clocks."""

    def tick(self) -> Tick:
        return Tick(datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME))


Witness = Callable[[float, float], bool]
"""witness(since, now) -> whether a query at `since` or later found the wall clock synchronised. Both are seconds since
boot. It is called at each tick while the clock is doubted, and at no other time."""


def boot_id() -> str:
    """The kernel's id of this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True)
class Moment:
    """A time for accounting. If trusted is False the wall clock may be wrong, so no period begins and no block ends."""

    at: datetime
    trusted: bool


def set_by(before: datetime, earlier: Tick, now: datetime, tick: Tick) -> timedelta:
    """By how much the clock was set between two moments: the time between them minus the seconds that really passed.
    A difference of up to JUMP is drift and counts as zero."""
    drift = (now - before) - timedelta(seconds=tick.elapsed - earlier.elapsed)
    return drift if abs(drift) > JUMP else timedelta()


class Trust(Enum):
    """Whether the wall clock is trusted, and why."""

    DOUBTED = "doubted"
    SYNCHRONISED = "synchronised"  # the witness confirmed it
    UNCHALLENGED = "unchallenged"  # it ran without a jump for the whole wait


class Timeline:
    """Turns ticks into moments. The wall clock is doubted after boot and after a jump. It is trusted again once the
    witness calls it synchronised, or after `wait` seconds without another jump; until then time goes on from the last
    good moment.

    `last` is the tick at which the ledger was last committed in this boot, or None.
    """

    def __init__(self, known: datetime | None, last: Tick | None, wait: float, witness: Witness) -> None:
        self._known, self._last, self._wait, self._witness = known, last, wait, witness
        self._doubted_at = 0.0  # seconds since boot: at boot the clock comes from the battery
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
    """Whether the clock is synchronised; False if timedated or D-Bus is missing or does not answer in `timeout`
    seconds."""
    try:
        answer = run(_QUESTION, timeout=timeout)
    except CommandError:
        return False
    return answer.status == 0 and answer.stdout.strip() == b"yes"


class Timedated:
    """A witness that never blocks its caller: it asks in a thread, at most one question every ten seconds, and knows
    the answer at a later tick."""

    def __init__(self, run: Runner) -> None:
        self._run = run
        self._asked_at = float("-inf")
        self._vouched = False
        self._asking: threading.Thread | None = None

    def vouches(self, since: float, now: float) -> bool:
        """Whether timedated answered yes to a question asked at `since` or later; asks again when it is time."""
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

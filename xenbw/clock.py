"""Time: one door to the system's clocks, and a timeline that a jumping wall clock cannot bend."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

# Kernel and clock agree to well under a second; a larger difference means that somebody set the clock.
_JUMP = timedelta(seconds=60)
_STA_UNSYNC = 0x0040  # linux include/uapi/linux/timex.h


@dataclass(frozen=True)
class Tick:
    """What the clocks say at one moment: wall time, seconds since boot (suspend included), and whether the kernel
    knows the wall clock to be synchronised."""

    wall: datetime
    elapsed: float
    synced: bool


class Clock(Protocol):
    """Where ticks come from; tests pass their own."""

    def tick(self) -> Tick: ...


class _Timex(ctypes.Structure):
    # struct timex (adjtimex(2)): `status` is the fifth field; the rest is room for the kernel to write to.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


class SystemClock:
    """The machine's own clocks."""

    def __init__(self) -> None:
        self._adjtimex = ctypes.CDLL(None).adjtimex

    def tick(self) -> Tick:
        timex = _Timex()
        # Setting the clock sets STA_UNSYNC until a time daemon has disciplined it again (linux kernel/time/ntp.c).
        synced = self._adjtimex(ctypes.byref(timex)) >= 0 and not timex.status & _STA_UNSYNC
        return Tick(datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME), synced)


def boot_id() -> str:
    """The kernel's name for this boot (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


@dataclass(frozen=True)
class Moment:
    """A time to account by. trusted False: the wall clock may be wrong, so no period opens and no block lifts."""

    at: datetime
    trusted: bool


class Timeline:
    """Moments from ticks. A clock that jumped, or was never synchronised since boot, is believed once the kernel calls
    it synchronised, or after `wait` seconds without another jump; until then time goes on from the last good moment.

    `last` is the tick at which the ledger was last committed in this boot, or None.
    """

    def __init__(self, known: datetime | None, last: Tick | None, wait: float) -> None:
        self._known, self._last, self._wait = known, last, wait
        self._doubted_at = 0.0  # seconds since boot: at boot the clock is whatever the battery kept

    def moment(self, tick: Tick) -> Moment:
        last, self._last = self._last, tick
        if last is not None:
            drift = (tick.wall - last.wall) - timedelta(seconds=tick.elapsed - last.elapsed)
            if abs(drift) > _JUMP:
                self._doubted_at = tick.elapsed
        trusted = tick.synced or tick.elapsed - self._doubted_at >= self._wait
        if trusted or self._known is None:
            self._known = tick.wall
        elif last is not None:
            self._known += timedelta(seconds=max(0.0, tick.elapsed - last.elapsed))
        else:
            self._known = max(self._known, tick.wall)
        return Moment(self._known, trusted)

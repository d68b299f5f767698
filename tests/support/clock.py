"""A clock that tests set."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from xenbw.clock import Tick
from xenbw.runner import Result, Runner


class HandClock:
    """Stands still until a test moves it."""

    def __init__(self, wall: datetime, elapsed: float = 1000.0, *, synced: bool = True) -> None:
        self.wall, self.elapsed, self.synced = wall, elapsed, synced

    def tick(self) -> Tick:
        return Tick(self.wall, self.elapsed)

    def vouches(self, _since: float, _now: float) -> bool:
        """The witness: it says at once whether the clock is synchronised."""
        return self.synced

    def go(self, **by: float) -> None:
        """Let time pass: go(minutes=5)."""
        self.wall += timedelta(**by)
        self.elapsed += timedelta(**by).total_seconds()


def answering(word: str) -> Runner:
    """A runner whose timedatectl answers with `word` when asked whether the clock is synchronised."""

    def run(argv: Sequence[str], *, timeout: float) -> Result:
        assert argv == ("timedatectl", "show", "--property=NTPSynchronized", "--value")
        return Result(0, f"{word}\n".encode(), b"")

    return run


def utc(text: str) -> datetime:
    """A time in UTC from "2026-03-01" or "2026-03-01 12:30"."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)

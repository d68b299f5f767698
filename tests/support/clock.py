"""A clock that tests set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from xenbw.clock import Tick


class HandClock:
    """Stands still until it is told to go on."""

    def __init__(self, wall: datetime, elapsed: float = 1000.0, *, synced: bool = True) -> None:
        self.wall, self.elapsed, self.synced = wall, elapsed, synced

    def tick(self) -> Tick:
        return Tick(self.wall, self.elapsed, self.synced)

    def go(self, **by: float) -> None:
        """Time passes: go(minutes=5)."""
        self.wall += timedelta(**by)
        self.elapsed += timedelta(**by).total_seconds()


def utc(text: str) -> datetime:
    """A time in UTC from "2026-03-01" or "2026-03-01 12:30"."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)

"""What is wrong just now: said in the log when it begins, changes and ends, not at each cycle."""

from __future__ import annotations

import logging
from collections.abc import Sequence

log = logging.getLogger(__name__)

# Seconds for which an obstacle has to be gone before that is said: it may be one that comes with each start of a VM.
_GONE = 60.0


class Complaints:
    """Two kinds: of a part that works or does not ("ledger"), and obstacles, which are whole sentences."""

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}
        self._obstacles: list[str] = []
        self._seen_at: dict[str, float] = {}  # of those of which it was said that they are there

    def of(self, part: str, problem: str | None) -> None:
        """What is wrong with a part; None: nothing."""
        before = self._parts.pop(part, None)
        if problem is not None:
            self._parts[part] = problem
            if problem != before:
                log.error("%s: %s", part, problem)
        elif before is not None:
            log.info("%s: works again", part)

    def obstacles(self, found: Sequence[str], elapsed: float) -> None:
        """All that stands in the way of blocks, at so many seconds of uptime."""
        for obstacle in found:
            if obstacle not in self._seen_at:
                log.error("%s", obstacle)
            self._seen_at[obstacle] = elapsed
        for obstacle, seen_at in list(self._seen_at.items()):
            if elapsed - seen_at >= _GONE:
                log.info("no longer: %s", obstacle)
                del self._seen_at[obstacle]
        self._obstacles = list(found)

    def all(self) -> list[str]:
        return [*self._obstacles, *(f"{part}: {problem}" for part, problem in self._parts.items())]

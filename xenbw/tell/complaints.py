"""Present problems: the log has a line when one begins, changes or ends, not at each cycle."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from xenbw.tell.journal import about

log = logging.getLogger(__name__)

# An obstacle must be gone for this many seconds before the log says so: it may come back with each start of a VM.
_GONE = 60.0


class Complaints:
    """Two kinds of problems: a part that does not work (such as "ledger"), and obstacles, which are whole sentences."""

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}
        self._obstacles: list[str] = []
        self._seen_at: dict[str, float] = {}  # of the obstacles that the log has reported

    def of(self, part: str, problem: str | None) -> None:
        """Report the problem of a part, or None if it works."""
        before = self._parts.pop(part, None)
        if problem is not None:
            self._parts[part] = problem
            if problem != before:
                log.error("%s: %s", part, problem, extra=about("problem"))
        elif before is not None:
            log.info("%s: works again", part, extra=about("problem-over"))

    def obstacles(self, found: Sequence[str], elapsed: float) -> None:
        """Report all present obstacles to blocks; elapsed: seconds of uptime."""
        for obstacle in found:
            if obstacle not in self._seen_at:
                log.error("%s", obstacle, extra=about("problem"))
            self._seen_at[obstacle] = elapsed
        for obstacle, seen_at in list(self._seen_at.items()):
            if elapsed - seen_at >= _GONE:
                log.info("no longer: %s", obstacle, extra=about("problem-over"))
                del self._seen_at[obstacle]
        self._obstacles = list(found)

    @property
    def present(self) -> dict[str, str]:
        """All present problems by key: a part's name, or the sentence of an obstacle."""
        parts = {part: f"{part}: {problem}" for part, problem in self._parts.items()}
        return {**{obstacle: obstacle for obstacle in self._obstacles}, **parts}

    def all(self) -> list[str]:
        return [*self._obstacles, *(f"{part}: {problem}" for part, problem in self._parts.items())]

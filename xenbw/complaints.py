"""What is wrong just now: said in the log when it begins, changes and ends, not at each cycle."""

from __future__ import annotations

import logging
from collections.abc import Sequence

log = logging.getLogger(__name__)


class Complaints:
    """Two kinds: of a part that works or does not ("ledger"), and obstacles, which are whole sentences."""

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}
        self._obstacles: list[str] = []

    def of(self, part: str, problem: str | None) -> None:
        """What is wrong with a part; None: nothing."""
        before = self._parts.pop(part, None)
        if problem is not None:
            self._parts[part] = problem
            if problem != before:
                log.error("%s: %s", part, problem)
        elif before is not None:
            log.info("%s: works again", part)

    def obstacles(self, found: Sequence[str]) -> None:
        """All that stands in the way of blocks."""
        for obstacle in found:
            if obstacle not in self._obstacles:
                log.error("%s", obstacle)
        for obstacle in self._obstacles:
            if obstacle not in found:
                log.info("no longer: %s", obstacle)
        self._obstacles = list(found)

    def all(self) -> list[str]:
        return [*self._obstacles, *(f"{part}: {problem}" for part, problem in self._parts.items())]

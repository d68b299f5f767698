"""What there is to tell the log: each event once, in one line."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from xenbw.clock import Trust
from xenbw.model import VM
from xenbw.tell.announcement import Announcement
from xenbw.tell.log import NOTICE

# How many repairs are named, so that a flushed firewall of a thousand rules is no page of log.
_NAMED = 3


class News:
    """A guard's lines for the log that nobody has taken yet. Names in them are as they came."""

    def __init__(self) -> None:
        self._lines: list[tuple[int, str]] = []
        self._unrecorded: dict[int, str] = {}
        self._announced: set[str] = set()

    def take(self) -> list[tuple[int, str]]:
        """What happened since the last call: (level of logging, text)."""
        lines, self._lines = self._lines, []
        return lines

    def verdict(self, vm: VM, told: Announcement, *, recorded: bool) -> None:
        """A VM's standing changed. What could not be recorded is reached again until it can be, and told at first."""
        before = self._unrecorded.pop(vm.id, None)
        if not recorded:
            self._unrecorded[vm.id] = told.kind
        if before != told.kind:
            self._lines.append((NOTICE, told.text))
            self._announced.add(vm.name)

    def as_recorded(self, vm_id: int) -> None:
        """A VM stands as the ledger says; what could not be recorded of it has come to nothing."""
        self._unrecorded.pop(vm_id, None)

    def moved(self, came: Mapping[str, Sequence[str]], went: Mapping[str, Sequence[str]]) -> None:
        """Null routes that came and went, by VM. Those of a verdict are in its line; what is left are a blocked VM's
        addresses that changed."""
        for moved, how in ((came, "null-routed at"), (went, "no longer null-routed at")):
            self._lines += [
                (logging.INFO, f"{name} {how} {', '.join(addresses)}")
                for name, addresses in moved.items()
                if name not in self._announced
            ]
        self._announced.clear()

    def repaired(self, changes: Sequence[str]) -> None:
        """What was right at the last look was not any more, and was made right."""
        more = f"; {len(changes) - _NAMED} more" if len(changes) > _NAMED else ""
        named = "; ".join(changes[:_NAMED]) + more
        self._lines.append((logging.WARNING, f"null routes put back, somebody else changes the firewall: {named}"))


def of_trust(trust: Trust, wait: float) -> tuple[int, str]:
    """That the clock has come into doubt, or out of it: (level of logging, text)."""
    match trust:
        case Trust.DOUBTED:
            held_back = "no period opens and no block lifts by itself"
            return logging.WARNING, f"the clock was set: {held_back} until it is synchronised, or for {wait:g} s"
        case Trust.SYNCHRONISED:
            return logging.INFO, "the clock is trusted: it is synchronised"
        case Trust.UNCHALLENGED:
            return logging.INFO, f"the clock is trusted: it has run evenly for {wait:g} s"

"""The lines for the log: one line for each event, once."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xenbw.clock import Trust
from xenbw.model import VM
from xenbw.tell.announcement import Announcement
from xenbw.tell.journal import NOTICE

# How many repairs the log names, so that a flushed firewall of a thousand rules does not fill a page.
_NAMED = 3


@dataclass(frozen=True)
class Line:
    """One line. level: of logging. event, vm: the fields of its entry in the journal; vm is a VM's name, or None."""

    level: int
    text: str
    event: str
    vm: str | None = None


class News:
    """Collects lines for the log until they are taken. Names in them are not yet made printable."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._unrecorded: dict[int, str] = {}
        self._announced: set[str] = set()

    def take(self) -> list[Line]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def verdict(self, vm: VM, announced: Announcement, *, recorded: bool) -> None:
        """A VM's standing changed. While the ledger cannot record it, each round repeats it; the log has it once."""
        before = self._unrecorded.pop(vm.id, None)
        if not recorded:
            self._unrecorded[vm.id] = announced.kind
        if before != announced.kind:
            self._lines.append(Line(NOTICE, announced.text, announced.kind, vm.name))
            self._announced.add(vm.name)

    def told(self, vm: VM, announced: Announcement) -> None:
        """Something was announced that changed no standing."""
        self._lines.append(Line(NOTICE, announced.text, announced.kind, vm.name))

    def as_recorded(self, vm_id: int) -> None:
        """A VM's standing is again the one in the ledger; forget an announcement that could not be recorded."""
        self._unrecorded.pop(vm_id, None)

    def moved(self, came: Mapping[str, Sequence[str]], went: Mapping[str, Sequence[str]]) -> None:
        """Null routes were added and removed, by VM. A verdict's line already has its null routes, so this reports only
        a blocked VM's changed addresses."""
        for moved, how in ((came, "null-routed at"), (went, "no longer null-routed at")):
            self._lines += [
                Line(logging.INFO, f"{name} {how} {', '.join(addresses)}", "readdressed", name)
                for name, addresses in moved.items()
                if name not in self._announced
            ]
        self._announced.clear()

    def repaired(self, changes: Sequence[str]) -> None:
        """Null routes that were right at the last check had changed, and were restored."""
        more = f"; {len(changes) - _NAMED} more" if len(changes) > _NAMED else ""
        named = "; ".join(changes[:_NAMED]) + more
        text = f"null routes restored, another program changes the firewall: {named}"
        self._lines.append(Line(logging.WARNING, text, "repaired"))


def of_trust(trust: Trust, wait: float) -> tuple[int, str]:
    """The log line for a clock that is doubted now, or trusted again: (level of logging, text)."""
    match trust:
        case Trust.DOUBTED:
            held_back = "no period begins and no block ends by itself"
            return logging.WARNING, f"the clock was set: {held_back} until it is synchronised, or for {wait:g} s"
        case Trust.SYNCHRONISED:
            return logging.INFO, "the clock is trusted: it is synchronised"
        case Trust.UNCHALLENGED:
            return logging.INFO, f"the clock is trusted: it has run evenly for {wait:g} s"

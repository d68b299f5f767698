"""The part of the daemon that tells of its host's troubles, on a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.support.clock import HandClock
from xenbw.accounting import Tally
from xenbw.clock import Timeline
from xenbw.config import Settings
from xenbw.daemon.now import Now
from xenbw.daemon.troubles import Troubles
from xenbw.judge.verdicts import Judge
from xenbw.ledger import eventlog
from xenbw.ledger.ledger import Ledger
from xenbw.tell.complaints import Complaints


class Lookout:
    """What the daemon does about troubles. ended, sync, metering, reconciler: where it looks for them."""

    def __init__(self, ledger: Ledger, settings: Settings, clock: HandClock) -> None:
        self.ledger, self.settings, self.clock = ledger, settings, clock
        self.ended: str | None = None
        self.sync: Any = None
        self.metering: Any = SimpleNamespace(reason="", meter=SimpleNamespace(name="kernel"))
        self.reconciler: Any = SimpleNamespace(unfiltered=set())
        self.start()

    def start(self) -> None:
        """The daemon starts."""
        self.complaints = Complaints()
        timeline = Timeline(self.clock.wall, None, 900.0, self.clock.vouches)
        self.now = Now(self.clock, timeline, Tally(), 900.0)
        judge, metering, reconciler = Judge(self.ledger, self.settings), self.metering, self.reconciler
        self.troubles = Troubles(self.settings, self.ledger, metering, judge, reconciler, self.now, self.complaints)
        self.troubles.ended, self.troubles.sync = self.ended, lambda: self.sync

    def go(self, seconds: int) -> None:
        """Let time pass, with a look each ten seconds."""
        for _ in range(0, seconds, 10):
            self.clock.go(seconds=10)
            self.now.look()
            self.troubles.look()

    def events(self) -> list[tuple[str, str]]:
        """The kinds and texts of the troubles that were told, oldest first."""
        found = [(kind, text) for _, kind, text in reversed(eventlog.newest(self.ledger, 100))]
        return [(kind, text) for kind, text in found if kind.startswith("trouble")]

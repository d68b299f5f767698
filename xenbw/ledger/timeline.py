"""The daemon's timeline, continued from the ledger's last commit."""

from __future__ import annotations

from xenbw.clock import Tick, Timeline, Witness
from xenbw.config import Settings
from xenbw.ledger.ledger import Alive


def timeline(alive: Alive | None, boot_id: str, settings: Settings, witness: Witness) -> Timeline:
    """The timeline that goes on from the ledger's last commit; by this boot's clock if the commit was in this boot."""
    last = None
    if alive is not None and alive.boot_id == boot_id:
        last = Tick(alive.at, alive.elapsed)
    return Timeline(alive.at if alive else None, last, settings.period.clock_wait, witness)

"""What a command is, and what it is handed."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from xenbw.clock import Clock, Moment, boot_id, synchronised
from xenbw.config import Settings
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.timeline import timeline
from xenbw.runner import Runner

# Seconds to wait for word whether the clock is synchronised, where it is in doubt: soon after boot, mostly.
_PATIENCE = 2.0


@dataclass(frozen=True)
class Context:
    """The configuration, and the doors to other commands and to the clock."""

    settings: Settings
    run: Runner
    clock: Clock

    @contextmanager
    def ledger(self, *, create: bool = False) -> Iterator[Ledger]:
        """The ledger, open for the length of a block. Raises LedgerError."""
        ledger = Ledger.open(self.settings.ledger.path, create=create)
        try:
            yield ledger
        finally:
            ledger.close()

    def moment(self, ledger: Ledger) -> Moment:
        """Now, as the ledger's timeline has it."""
        return timeline(ledger.alive(), boot_id(), self.settings, self._vouches).moment(self.clock.tick())

    def _vouches(self, _since: float, _now: float) -> bool:
        return synchronised(self.run, timeout=_PATIENCE)


@dataclass(frozen=True)
class Command:
    """What a word of the command line does. `arguments` puts its options on its parser; `run` does it and returns the
    exit status, or raises XenbwError."""

    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, Context], int]

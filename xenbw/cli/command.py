"""The type of a command, and the context in which it runs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from xenbw.cli.terminal import Progress
from xenbw.clock import Clock, Moment, boot_id, synchronised
from xenbw.config import Settings
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.timeline import timeline
from xenbw.runner import Runner

# Seconds to wait for the answer whether the clock is synchronised. It is asked only in doubt, mostly soon after boot.
_PATIENCE = 2.0


@dataclass(frozen=True)
class Context:
    """The configuration, the runner of other programs, and the clock."""

    settings: Settings
    run: Runner
    clock: Clock

    @contextmanager
    def ledger(self, *, create: bool = False) -> Iterator[Ledger]:
        """The ledger, open for the length of a block. Raises LedgerError."""
        with Progress("copying the ledger before its upgrade") as progress:
            ledger = Ledger.open(self.settings.ledger.path, create=create, on_progress=progress.tell)
        try:
            yield ledger
        finally:
            ledger.close()

    def moment(self, ledger: Ledger) -> Moment:
        """The present moment on the ledger's timeline."""
        return timeline(ledger.alive(), boot_id(), self.settings, self._vouches).moment(self.clock.tick())

    def _vouches(self, _since: float, _now: float) -> bool:
        return synchronised(self.run, timeout=_PATIENCE)


@dataclass(frozen=True)
class Command:
    """A command of xenbw. `arguments` adds its options to its parser; `run` runs it and returns the exit status, or
    raises XenbwError."""

    arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace, Context], int]

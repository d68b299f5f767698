"""The daemon's periodic chores: a table of them, each with its seconds and one short method."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

from xenbw.accounting import Tally
from xenbw.config import Settings
from xenbw.daemon.accounts import Accounts
from xenbw.daemon.metrics import Metrics
from xenbw.daemon.now import Now
from xenbw.daemon.tenants import Tenants
from xenbw.enforce.protect import Protected
from xenbw.errors import MeterError
from xenbw.judge.forecasts import CALL, Forecasts
from xenbw.ledger import aliases, digests, prune, space, usagelog
from xenbw.ledger.ageing import Ageing
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.meters.metering import Metering
from xenbw.rundir import pending
from xenbw.vifs.census import Census
from xenbw.vifs.orphans import Orphans

_SAMPLE = 60.0
_LOOK = 60.0
_PROTECT = 60.0
_PRUNE = 60.0
# As often as the Prometheus of its documentation's first example asks.
_METRICS = 15.0
_TELL = 1.0
# The loop may come round a little early.
_EARLY = 0.05


class Every:
    """A timer that is due each so many seconds of uptime."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._last = seconds, float("-inf")

    def due(self, elapsed: float) -> bool:
        """Whether it is due; if so, it is due again that many seconds from now."""
        if elapsed - self._last < self.seconds - _EARLY:
            return False
        self._last = elapsed
        return True

    def hasten(self) -> None:
        """Make it due at once."""
        self._last = float("-inf")


class Housekeeping:
    """The chores and when each is due."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        tally: Tally,
        metering: Metering,
        census: Census,
        orphans: Orphans,
        accounts: Accounts,
        protected: Protected,
        metrics: Metrics,
        tenants: Tenants,
        forecasts: Forecasts,
        now: Now,
        boot_id: str,
    ) -> None:
        self.settings, self._ledger, self._tally, self._metering = settings, ledger, tally, metering
        self._census, self._orphans, self._accounts, self._protected = census, orphans, accounts, protected
        self._metrics, self._tenants, self._forecasts = metrics, tenants, forecasts
        self._now, self._boot_id = now, boot_id
        self._ageing = Ageing(ledger)
        self._asking: threading.Thread | None = None
        self._missed = self._changed = False
        self._chores: list[tuple[Every, Callable[[], None]]] = [
            # First, since it needs no ledger.
            (Every(_TELL), lambda: self._tenants.tell(on=self.settings.guest.xenstore)),
            (Every(_LOOK), self._look_around),
            (Every(_SAMPLE), self._sample),
            (Every(_PROTECT), self._protect),
            (Every(_PRUNE), self._prune),
            (Every(_METRICS), lambda: self._metrics.write(self.settings.metrics.file)),
            (Every(_PRUNE), self._age),
            (Every(CALL), self._forecast),
        ]

    def rescan(self) -> None:
        """An event could not be taken note of: look at every interface in the next cycle."""
        self._missed = True

    def configure(self, settings: Settings) -> None:
        """Take over this configuration: all chores are due at once."""
        self.settings = settings
        for every, _ in self._chores:
            every.hasten()

    def run(self) -> bool:
        """Do what is due, up to the first chore that the ledger does not allow now; that one is due again in its time.
        Whether bindings changed."""
        try:
            if self._missed:
                self._look()
            for every, chore in self._chores:
                if every.due(self._now.tick.elapsed):
                    chore()
        except LedgerError as error:
            self._accounts.failed(error)
        changed, self._changed = self._changed, False
        return changed

    def _look(self) -> None:
        self._missed, at = True, self._now.moment.at
        self._changed = self._census.rescan(at, at, dict) or self._changed
        self._missed = False

    def _look_around(self) -> None:
        """Look at every interface, and claim the counters of those that came and went unseen."""
        self._look()
        at = self._now.moment.at
        self._census.churn.look(at)
        # Calls of hooks that are not recorded yet may tell which VM a vif belonged to.
        spool = pending.folder(self.settings.daemon.run_dir)
        pending.tidy(spool)
        if not pending.notes(spool):
            try:
                self._changed = self._orphans.claim(at) or self._changed
                self._orphans.lost(self._metering.sweep(), at)
            except MeterError as error:
                self._accounts.meter_failed(error)
        self._census.ask(at, everyone=True)

    def _sample(self) -> None:
        usagelog.add_readings(self._ledger, self._tally.readings(), self._now.moment.at)

    def _protect(self) -> None:
        """Find the addresses that are never blocked, in a thread: the resolver may take long."""
        if self._asking is None or not self._asking.is_alive():
            settings = self.settings
            self._asking = threading.Thread(
                target=lambda: self._protected.refresh(settings.helpers, settings.mongodb.uri),
                name="protect",
                daemon=True,
            )
            self._asking.start()

    def _prune(self) -> None:
        """Drop old readings, history and other MACs, and fold earlier lives of VMs that come and go into digests, once
        all their bytes are in the ledger."""
        if not self._now.moment.trusted:
            return
        at, keep = self._now.moment.at, self.settings.ledger
        aliases.shorten(self._ledger, at)
        prune.prune(self._ledger, at - timedelta(days=keep.keep_readings), at - timedelta(days=keep.keep_history))
        try:
            if self._accounts.commit():
                digests.fold(self._ledger, self._boot_id, self._metering.busy)
        except MeterError as error:
            self._accounts.meter_failed(error)

    def _forecast(self) -> None:
        """Look whether some VMs will cross their allowances, and tell what changed."""
        if self.settings.alert.forecast and self._now.moment.trusted:
            self._forecasts.look(self._now.moment.at, self._now.tick.elapsed)

    def _age(self) -> None:
        """Make the history of some VMs coarser where it is old, and give back free space of the ledger."""
        if self._now.moment.trusted:
            self._ageing.work(self._now.moment.at, self.settings.ledger.keep_spans, self.settings.period.timezone)
            space.give_back(self._ledger)

"""The daemon's work: its cycle, and its reaction to news from the kernel, xenstore, a hook or the CLI.

Sockets and signals are in loop.py; the clock is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from xenbw.accounting import Tally
from xenbw.blocks import registry as blocks
from xenbw.clock import Clock, Tick, Witness
from xenbw.config import Settings
from xenbw.daemon.accounts import Accounts
from xenbw.daemon.floods import Floods
from xenbw.daemon.housekeeping import Every, Housekeeping
from xenbw.daemon.metrics import Metrics
from xenbw.daemon.now import Now
from xenbw.daemon.rounds import Rounds
from xenbw.daemon.status import Status
from xenbw.daemon.tenants import Tenants
from xenbw.daemon.troubles import Troubles
from xenbw.enforce.protect import Protected, last_known
from xenbw.enforce.reconcile import Reconciler
from xenbw.judge.forecasts import Forecasts
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge, settle_kept
from xenbw.ledger import history
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.ledger.timeline import timeline
from xenbw.meters import registry as meters
from xenbw.meters.counters import KernelMeter
from xenbw.meters.metering import Metering
from xenbw.nft.chains import Chains
from xenbw.nft.quotas import Quotas
from xenbw.nft.tables import Apply, Tables
from xenbw.rundir import pending
from xenbw.runner import Runner
from xenbw.tell.complaints import Complaints
from xenbw.vifs import interfaces
from xenbw.vifs.calls import Calls
from xenbw.vifs.census import Census
from xenbw.vifs.orphans import Orphans
from xenbw.vifs.udev import Event
from xenbw.xen.notices import Notices
from xenbw.xen.xenstore import Answer, Lookup, Survey

# Seconds. At a host's boot the daemon is poked for each guest that starts, and a look at 1000 domains takes 40 ms.
_SURVEY = 10.0


class Work:
    """All parts of xenbwd, built and connected."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        lookup: Lookup,
        clock: Clock,
        witness: Witness,
        boot_id: str,
        run: Runner,
        nft: Apply,
        sysfs: Path = interfaces.SYSFS,
    ) -> None:
        self.settings, self._ledger, self._boot_id, self._run = settings, ledger, boot_id, run
        self._tally = tally = Tally()
        self._tables = Tables(nft)
        self._chains = Chains(self._tables)
        self._complaints = Complaints()
        self._complaints.of("the ledger's damage", ledger.damage)
        known = timeline(ledger.alive(), boot_id, settings, witness)
        self._now = Now(clock, known, tally, settings.period.clock_wait)
        self._started_at = self._now.moment.at
        self._metering = Metering(ledger, tally, boot_id, self._chains)
        self._census = Census(ledger, lookup, tally, boot_id, self._metering.passed, sysfs)
        orphans = Orphans(ledger, boot_id, self._metering.unclaimed, self._metering.counts)
        self._calls = Calls(ledger, boot_id, orphans, sysfs)
        self._roster = Roster(ledger, settings)
        self._judge = Judge(ledger, settings)
        self._quotas = Quotas(self._tables)
        means = blocks.Means(self._tables, self._chains, self._quotas, str(settings.daemon.run_dir))
        made = blocks.blocks(means)
        (self._throttle,) = (block for block in made if block.name == blocks.THROTTLE)
        self._reconciler = Reconciler(ledger, settings, self._judge, made, boot_id)
        self._accounts = Accounts(ledger, tally, self._metering, self._roster, self._now, self._complaints, boot_id)
        # Networks that the last daemon protected stay so until all sources have answered: some are on other machines.
        self._protected = Protected(run, last_known(ledger))
        self._protected.look_here()
        self.metrics = Metrics(
            ledger, tally, self._census, self._roster, self._now, self._complaints, boot_id, self.status
        )
        self._tenants = Tenants(self._census, self._roster, tally, self._now, self._complaints, Notices())
        self._housekeeping = Housekeeping(
            settings,
            ledger,
            tally,
            self._metering,
            self._census,
            orphans,
            self._accounts,
            self._protected,
            self.metrics,
            self._tenants,
            Forecasts(ledger, tally, self._roster, self._judge),
            self._now,
            boot_id,
        )
        self._rounds = Rounds(
            tally,
            self._metering,
            self._quotas,
            self._census,
            self._accounts,
            self._roster,
            self._judge,
            self._reconciler,
            self._protected,
            self._now,
            self._complaints,
        )
        self._floods = Floods(settings, ledger, tally, self._metering, self._roster, self._judge, self._now)
        self.troubles = Troubles(
            settings, ledger, self._metering, self._judge, self._reconciler, self._now, self._complaints
        )
        self._take_over(settings)
        self._roster.load(self._now.moment)
        self._trusted = self._now.moment.trusted  # as of when the ledger was last taken over
        self._stale = False  # whether there is something in the ledger that could not be taken over

    def _take_over(self, settings: Settings) -> None:
        self.settings = settings
        for part in (self._roster, self._judge, self._reconciler, self._floods, self.troubles):
            part.settings = settings
        self._housekeeping.configure(settings)
        self._now.wait = settings.period.clock_wait
        self._throttle_problem = self._throttle.probe()  # which probes the chains as well
        self._accounts.meter_failed(None)
        meter = settings.meter
        means = meters.Means(
            self._tables.of(), self._chains, self._quotas, self._run, self._census.owner_of, meter.interval
        )
        self._quotas.forget()
        self._metering.use(*meters.choose(meter.source, means))
        self._reconciler.meter = self._metering.meter.name
        self._reconciler.choose(self._tables, self._run)
        self._commit_timer, self._enforce_timer = Every(settings.ledger.commit), Every(settings.enforce.interval)
        self._survey_timer = Every(_SURVEY)

    def start(self) -> None:
        """Find the vifs that came and went while no daemon ran, and count from where the last daemon stopped."""
        moment, alive = self._now.look(), self._accounts.alive
        since = max(alive.at, min(self._now.booted_at, moment.at)) if alive else moment.at
        self._calls.take(self._pending_folder)
        refiled = self._roster.load(moment)
        self._census.load(self._roster.entries, alive.at if alive else None)
        if alive is not None and alive.boot_id == self._boot_id:
            self._now.go_on_from(alive.at, Tick(alive.at, alive.elapsed))
        # Bytes from before xenbw's first start are no VM's usage.
        if alive is None:
            self._metering.forget()
        self._census.rescan(moment.at, since, KernelMeter().read_all if alive is None else dict)
        if alive is None:
            self._metering.meter.forget()  # a sample from before would look as if the counters had begun again
        self._census.load(self._roster.entries)
        self._accounts.open_periods(refiled)
        settle_kept(self._ledger, self._roster, self._tally.usage)
        history.catch_up(self._ledger)
        # Before the first commit, which sets when a daemon was last alive.
        self._rounds.count()
        self._rounds.play(self._reload(), look=True)
        self._census.ask(moment.at)

    def cycle(self, events: Iterable[Event]) -> None:
        """The work of each [meter] interval."""
        if self.on_events(events):
            self.sync()
        moment, elapsed = self._now.look(), self._now.tick.elapsed
        hold, due = self._enforce_timer.due(elapsed), list[int]()
        taken = self._take_pending()
        try:
            # What a clock in doubt held back, rules and first periods among it, is done when the clock is trusted.
            if taken or self._ledger.changed_by_others() or self._stale or moment.trusted != self._trusted:
                due, hold = self._reload(), hold or taken
            self._complaints.of("ledger file", _displaced(self._ledger))
        except LedgerError as error:
            self._accounts.failed(error)
        # A tripwire follows its VM's limit, and its usage on other hosts.
        self._rounds.play(due, look=hold or bool(due), hold=hold or bool(due))
        if self._commit_timer.due(elapsed) and self._accounts.commit() and self._judge.unsettled:
            self._rounds.play(self._judge.unsettled)
        self._settle(self._housekeeping.run)
        self._census.ask(self._now.moment.at)
        for look in (self._floods.look, self.troubles.look):
            self._accounts.attempt(look)

    # news

    def on_events(self, events: Iterable[Event]) -> bool:
        """The kernel has news of interfaces. Whether `sync` has to follow."""
        try:
            changed = self._census.see(events, self._now.look().at, dict)
        except LedgerError as error:
            self._accounts.failed(error)
            self._housekeeping.rescan()
            changed = True
        self._receive()
        return changed

    def on_answers(self, answers: Iterable[Answer | Survey]) -> None:
        """xenstore told which VMs interfaces belong to."""
        self._settle(lambda: self._census.hear(answers, self._now.look().at))
        self._receive()

    def _receive(self) -> None:
        """Put counters and seals on new vifs at once, while their vif scripts still run."""
        if self._census.arriving and self._chains.usable:
            self._rounds.play(look=True)

    def _settle(self, take_note: Callable[[], bool]) -> None:
        """Call take_note; if bindings changed, judge and reconcile."""
        try:
            if take_note():
                self._rounds.play(self._reload(), look=True, hold=True)
        except LedgerError as error:
            self._accounts.failed(error)
            self._housekeeping.rescan()

    @property
    def _pending_folder(self) -> Path:
        return pending.folder(self.settings.daemon.run_dir)

    def _take_pending(self) -> bool:
        """Record what hooks could not. Whether there was anything, and that worked."""
        try:
            return self._calls.take(self._pending_folder) > 0
        except LedgerError as error:
            self._accounts.failed(error)
            self._housekeeping.rescan()
            return False

    def sync(self) -> list[str]:
        """There is news in the ledger, by a hook, the CLI or ourselves: take it over, judge and enforce. Returns what
        blocks had to change."""
        self._take_pending()
        due: list[int] = []
        try:
            self._ledger.changed_by_others()
            due = self._reload()
            if self._survey_timer.due(self._now.tick.elapsed):
                self._census.survey()
        except LedgerError as error:
            self._accounts.failed(error)
        return self._rounds.play(due, look=True, hold=True)

    def _reload(self) -> list[int]:
        """Take over what the ledger says of VMs and bindings. Returns the VMs to be judged. Raises LedgerError."""
        moment, known, self._stale = self._now.moment, self._roster.entries.keys(), True
        if not self._accounts.settle(known):
            return []
        refiled = self._roster.load(moment)
        # A VM that is new in the roster may have ended already.
        if met := self._roster.entries.keys() - known:
            self._accounts.settle(met)
        self._trusted = moment.trusted
        self._census.load(self._roster.entries)
        self._accounts.open_periods(refiled)
        self._stale = False
        return list(self._roster.entries)

    def on_rules(self) -> None:
        """Another program changed the host's nft rules, perhaps ours too."""
        # A firewall that loads may also flush the legacy tables, as firewalld does; the kernel does not report that.
        self._enforce_timer.hasten()
        self._tables.forget()
        if self._chains.usable:
            self._now.look()
            self._rounds.play(look=True)

    def on_tripwire(self, quotas: Collection[str], *, changed: bool) -> None:
        """VMs used up their allowances. quotas: the quota objects that ran out. changed: whether another program
        changed the host's nft rules as well."""
        if changed:
            self.on_rules()
        else:
            self._now.look()
            moved = self._rounds.trip(quotas)
            self._rounds.play(look=moved, hold=moved)

    def enforce(self) -> list[str]:
        """Make the kernel's blocks what the ledger says, without counting. Returns what blocks changed."""
        return self._rounds.hold()

    def configure(self, settings: Settings) -> None:
        """Take over a changed configuration, except the ledger's path and the run folder, on which hooks rely."""
        before = self.settings
        fixed = (settings.ledger.path, settings.daemon) == (before.ledger.path, before.daemon)
        self._complaints.of(
            "config", None if fixed else "[ledger] path and [daemon] run_dir change at the next restart only"
        )
        ledger = replace(settings.ledger, path=before.ledger.path)
        # The last bytes of vifs that are gone are in the counters of the meter until now.
        self.catch_up()
        try:
            self._accounts.settle(self._roster.entries.keys())
        except LedgerError as error:
            self._accounts.failed(error)
        self._take_over(replace(settings, ledger=ledger, daemon=before.daemon))
        due = list(self._roster.entries)
        try:
            due = self._reload()
        except LedgerError as error:
            self._accounts.failed(error)  # the next cycle tries it again
        self._rounds.play(due, look=True, hold=True)

    def catch_up(self) -> bool:
        """Count to this moment and commit. Whether that worked."""
        self._now.look()
        self._rounds.play()
        return self._accounts.commit()

    def close(self) -> None:
        self._tenants.close()
        self._metering.close()
        self._tables.close()
        self._ledger.close()

    def take_mail(self) -> bool:
        """Whether messages were queued since the last call."""
        queued, self._judge.queued = self._judge.queued, False
        return queued

    def status(self) -> Status:
        """The daemon's present state."""
        return Status(
            self._started_at,
            self._metering,
            self._roster.entries,
            len(self._tally.tracked),
            len(self._census.waiting),
            len(self._reconciler.plan.null_routes),
            len(self._rounds.tripwired),
            self._complaints.all(),
            self._accounts.alive.at if self._accounts.alive else None,
            self._now.trust,
            self._throttle_problem,
            self._reconciler.method,
            self._floods.open,
        )


def _displaced(ledger: Ledger) -> str | None:
    displaced = ledger.displaced()
    return displaced and f"{ledger.path}: {displaced}: put it back, or systemctl restart xenbwd; blocks stay"

"""The daemon's work: read, account, judge, commit, enforce. Knows no sockets and no signals; time is passed in."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from xenbw import quota
from xenbw.accounting import Tally
from xenbw.blocks.iptables import Iptables
from xenbw.blocks.latch import Latches
from xenbw.clock import Clock, Moment, Tick, Witness, set_by
from xenbw.config import Settings
from xenbw.enforce.protect import Protected, last_known
from xenbw.enforce.reconcile import Guard
from xenbw.errors import MeterError
from xenbw.judge.roster import Roster
from xenbw.ledger import digests, kept, prune, rescue, usagelog
from xenbw.ledger.ledger import Alive, CorruptLedgerError, Ledger, LedgerError
from xenbw.ledger.timeline import timeline
from xenbw.meters.counters import KernelMeter, XentopMeter
from xenbw.meters.metering import Metering
from xenbw.model import ZERO, Cause, Count, State
from xenbw.nft.chains import Apply, Port
from xenbw.rundir import pending
from xenbw.runner import Runner
from xenbw.tell import news
from xenbw.tell.complaints import Complaints
from xenbw.units import format_time
from xenbw.vifs import interfaces
from xenbw.vifs.calls import Calls
from xenbw.vifs.census import Census
from xenbw.vifs.orphans import Orphans
from xenbw.vifs.udev import Event
from xenbw.xen.xenstore import Answer, Lookup, Survey

log = logging.getLogger(__name__)

_SAMPLE = 60.0
_NAMES = 60.0
_PROTECT = 60.0
_PRUNE = 60.0
# A host that boots is poked for each guest it starts, and to look at a thousand takes 40 ms.
_SURVEY = 10.0
_EARLY = 0.05


class _Every:
    """Something due each so many seconds of uptime. A round of the loop may come a little early."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._last = seconds, float("-inf")

    def due(self, elapsed: float) -> bool:
        if elapsed - self._last < self.seconds - _EARLY:
            return False
        self._last = elapsed
        return True

    def hasten(self) -> None:
        """Let it be due at once."""
        self._last = float("-inf")


class Work:
    """Everything xenbwd keeps in memory, and what it does with it."""

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
        self.settings, self._ledger, self._clock, self._boot_id, self._run = settings, ledger, clock, boot_id, run
        self._alive = ledger.alive()
        self._timeline = timeline(self._alive, boot_id, settings, witness)
        self._tick = clock.tick()
        self._moment = self._timeline.moment(self._tick)
        self._started_at = self._moment.at
        self._tally = Tally()
        self._metering = Metering(ledger, self._tally, boot_id, nft)
        self._census = Census(ledger, lookup, self._tally, boot_id, self._metering.passed, sysfs)
        self._orphans = Orphans(ledger, boot_id, self._metering.unclaimed, self._metering.counts)
        self._calls = Calls(ledger, boot_id, self._orphans, sysfs)
        self._roster = Roster(ledger, settings)
        self._guard = Guard(ledger, settings, [Iptables(4), Iptables(6)])
        self._latches = Latches(nft, boot_id, str(settings.daemon.run_dir))
        self._guard.latch = self._latches.keep
        self._choose_meter()
        self._ceilings: dict[int, tuple[Count, float]] = {}
        self._crossed: set[int] = set()  # VMs to be judged: found to have crossed something while others were blocked
        self._missed = False  # an event could not be taken note of
        self._complaints = Complaints()
        self._complaints.of("the ledger's damage", ledger.damage)
        self._configure_timers()
        self._roster.load(self._moment)
        self._trusted = self._moment.trusted  # as of when the ledger was last taken over
        # What the last daemon knew holds until everything has been asked, which waits for other machines.
        self._protected = Protected(run, last_known(ledger))
        self._protected.look_here()
        self._asking: threading.Thread | None = None
        self._protect()

    def _configure_timers(self) -> None:
        self._commit_timer = _Every(self.settings.ledger.commit)
        self._enforce_timer = _Every(self.settings.enforce.interval)
        self._sample_timer, self._names_timer = _Every(_SAMPLE), _Every(_NAMES)
        self._protect_timer, self._prune_timer = _Every(_PROTECT), _Every(_PRUNE)
        self._survey_timer = _Every(_SURVEY)

    def _choose_meter(self) -> None:
        section = self.settings.meter
        self._metering.choose(section.source, lambda: XentopMeter(self._run, self._census.owner_of, section.interval))
        self._guard.meter = self._metering.meter.name
        self._guard.seal = self._keep_in_any_case if self._metering.seals else None

    def _now(self) -> Moment:
        before, earlier = self._moment, self._tick
        self._tick = self._clock.tick()
        self._moment = self._timeline.moment(self._tick)
        self._set_clock(before.at, earlier)
        if self._moment.trusted != before.trusted:
            log.log(*news.of_trust(self._timeline.trust, self.settings.period.clock_wait))
        return self._moment

    def _set_clock(self, before: datetime, earlier: Tick) -> None:
        """Keep to the seconds that passed since what was last read, however the clock was set meanwhile."""
        self._tally.booted_at = self._moment.at - timedelta(seconds=self._tick.elapsed)
        shift = set_by(before, earlier, self._moment.at, self._tick)
        if shift:
            self._tally.shift(shift)

    def _ledger_failed(self, error: LedgerError) -> None:
        """Go on without the ledger for now; a damaged one will not come back, and is replaced at the next start."""
        if isinstance(error, CorruptLedgerError):
            rescue.mark(self._ledger.path)
            raise error
        self._complaints.of("ledger", str(error))

    # the day's work

    def start(self) -> None:
        """Find out what came and went while no daemon ran, and count from where the last one stopped."""
        moment, alive = self._now(), self._alive
        booted_at = moment.at - timedelta(seconds=self._tick.elapsed)
        since = max(alive.at, min(booted_at, moment.at)) if alive else moment.at
        self._calls.take(self._pending_folder)
        refiled = self._roster.load(moment)
        self._census.load(self._roster.entries, alive.at if alive else None)
        if alive is not None and alive.boot_id == self._boot_id:
            self._set_clock(alive.at, Tick(alive.at, alive.elapsed))
        # What passed before xenbw was ever here belongs to nobody's allowance.
        if alive is None:
            self._metering.forget()
        self._census.rescan(moment.at, since, KernelMeter().read_all if alive is None else dict)
        self._census.load(self._roster.entries)
        self._open_periods(refiled)
        self._settle_kept()
        # Before the first commit moves the mark of when a daemon was last alive.
        self._measure(moment)
        self._reload()
        self._census.ask(moment.at)

    def _settle_kept(self) -> None:
        """Who was kept blocked since the ledger lacks his block, and is over his allowance by what it has, is blocked
        for that: it ends with his period, as it would have."""
        for vm_id in self._ledger.kept.keys() & self._roster.entries.keys():
            entry = self._roster.entries[vm_id]
            used = entry.used(self._tally.usage.get(vm_id, ZERO))
            vm = replace(entry.vm, blocked_reason=None)
            if quota.stand(vm, entry.allowance, entry.enforced, used, entry.period).block is Cause.QUOTA:
                self._ledger.set_vm(vm_id, blocked_reason=None)

    def cycle(self, events: Iterable[Event]) -> None:
        """One round, each [meter] interval."""
        if self.on_events(events):
            self.sync()
        self._take_spool()
        moment, elapsed = self._now(), self._tick.elapsed
        try:
            # What a doubted clock held back, rules and first periods among them, is done when it is trusted.
            if self._ledger.changed_by_others() or moment.trusted != self._trusted:
                self._reload()
            self._measure(moment)
            self._complaints.of("ledger file", self._displaced())
            if self._commit_timer.due(elapsed) and self.commit() and self._guard.unsettled:
                self._judge(self._guard.unsettled & self._roster.entries.keys(), moment)
            if self._enforce_timer.due(elapsed):
                self.enforce()
            self._housekeeping(moment, elapsed)
        except LedgerError as error:
            self._ledger_failed(error)

    def _displaced(self) -> str | None:
        what = self._ledger.displaced()
        return what and f"{self._ledger.path}: {what}: put it back, or systemctl restart xenbwd; blocks stay"

    def _measure(self, moment: Moment) -> None:
        """Read, credit, and judge whoever crossed something."""
        if not self._credit(moment):
            return
        if self._metering.bridged:
            self._keep()
        rolled = self._roll(moment)
        if rolled or self._crossed:
            # Who judges after a crash, with no daemon to count, has to come to the same verdict.
            self.commit(durable=False)
            self._judge(rolled, moment)

    def _credit(self, moment: Moment) -> bool:
        """Read and credit; whether that worked. Who may have crossed something is noted and no more: it is also done in
        the midst of blocking others, who would be blocked by what was so before."""
        meter = f"meter {self._metering.meter.name}"
        try:
            changed = self._metering.count(moment.at, self._roster.period_of(moment.trusted))
            self._complaints.of(meter, None)
        except MeterError as error:
            self._complaints.of(meter, str(error))
            return False
        self._crossed.update(filter(self._may_have_crossed, changed))
        if self._metering.bridged:
            self._bridge(moment, self._metering.bridged)
        return True

    def _bridge(self, moment: Moment, bridged: int) -> None:
        """Our counters were gone. What the kernel's told is written before ours begin anew, or a crash counts both."""
        self.commit()
        text = f"the kernel's counters bridged a gap in ours on {bridged} interfaces, which somebody flushed or renamed"
        log.warning("%s", text)
        self._ledger.record(moment.at, "meter-gap", text)

    def _roll(self, moment: Moment) -> list[int]:
        if not any(moment.at >= entry.period.end for entry in self._roster.entries.values()):
            return []
        self.commit()
        self._roster.roll(moment)
        rolled = [id_ for id_, e in self._roster.entries.items() if not self._tally.stands_in(id_, e.period.start)]
        for vm_id in rolled:
            self._tally.open_period(vm_id, self._roster.entries[vm_id].period.start)
        return rolled

    def _may_have_crossed(self, vm_id: int) -> bool:
        if vm_id not in self._ceilings:
            return True
        count, ceiling = self._ceilings[vm_id]
        used = self._roster.entries[vm_id].used(self._tally.usage[vm_id])
        return quota.used_bytes(count, used) >= ceiling

    def _judge(self, vm_ids: Iterable[int], moment: Moment) -> list[str]:
        """Judge, and act on it at once: block or release. Then judge who was found to have crossed something meanwhile,
        each VM once: what is counted in the midst of blocking is judged when that is done. Returns what was enforced.
        """
        changes: list[str] = []
        judged: set[int] = set()
        due = self._crossed.union(vm_ids) & self._roster.entries.keys()
        while due:
            if self._pass_judgement(due, moment):
                changes += self._hold()
                self.commit()
            judged |= due
            due = (self._crossed & self._roster.entries.keys()) - judged
        return changes

    def _pass_judgement(self, vm_ids: Collection[int], moment: Moment) -> bool:
        """Whether blocks changed."""
        changed = self._guard.judge(self._roster, self._tally.usage, vm_ids, moment)
        self._crossed -= set(vm_ids)
        self._log_news()
        if self._guard.failure is not None:
            self._ledger_failed(self._guard.failure)
        for vm_id in vm_ids:
            entry = self._roster.entries[vm_id]
            self._ceilings[vm_id] = (entry.allowance.count, quota.ceiling(entry.allowance, entry.vm.state))
        return changed

    def _housekeeping(self, moment: Moment, elapsed: float) -> None:
        names = self._names_timer.due(elapsed)
        if names or self._missed:
            self._missed = False
            self._settle(lambda: self._census.rescan(moment.at, moment.at, dict))
        if names:
            self._census.churn.look(moment.at)
            self._sweep(moment)
        self._census.ask(moment.at, everyone=names)
        if self._sample_timer.due(elapsed):
            usagelog.add_readings(self._ledger, self._tally.readings(), moment.at)
        if self._protect_timer.due(elapsed):
            self._refresh_protected()
        if self._prune_timer.due(elapsed) and moment.trusted:
            keep = self.settings.ledger
            prune.prune(
                self._ledger,
                moment.at - timedelta(days=keep.keep_readings),
                moment.at - timedelta(days=keep.keep_history),
            )
            self._fold()

    def _sweep(self, moment: Moment) -> None:
        # What hooks left unwritten says whose some interface was.
        if not self._pending_folder.is_dir() or not any(self._pending_folder.iterdir()):
            try:
                self._settle(lambda: self._orphans.claim(moment.at))
                self._orphans.lost(self._metering.sweep(), moment.at)
            except MeterError as error:
                self._complaints.of(f"meter {self._metering.meter.name}", str(error))

    def _fold(self) -> None:
        """Let earlier lives of VMs that come and go be told together, once what they counted is all in the ledger."""
        meter = f"meter {self._metering.meter.name}"
        try:
            if self.commit():
                digests.fold(self._ledger, self._boot_id, self._metering.busy)
        except MeterError as error:
            self._complaints.of(meter, str(error))

    # news

    def on_events(self, events: Iterable[Event]) -> bool:
        """The kernel said something about interfaces. Whether that is for `sync` to take over."""
        try:
            changed = self._census.see(events, self._now().at, dict)
        except LedgerError as error:
            self._ledger_failed(error)
            changed = self._missed = True
        self._receive()
        return changed

    def on_answers(self, answers: Iterable[Answer | Survey]) -> None:
        """xenstore told whose interfaces are."""
        self._settle(lambda: self._census.hear(answers, self._now().at))
        self._receive()

    def _receive(self) -> None:
        """Let nothing through uncounted, or to a blocked VM, before an interface's script is done."""
        if self._census.arriving and self._metering.seals:
            self._keep_in_any_case()
            self._judge_crossed()

    def _settle(self, take_note: Callable[[], bool]) -> None:
        """Let the census take note; if bindings changed, act on it."""
        try:
            if take_note():
                self._reload()
                self.enforce()
        except LedgerError as error:
            self._ledger_failed(error)
            self._missed = True

    def _take_spool(self) -> None:
        self._settle(lambda: self._calls.take(self._pending_folder) > 0)

    def sync(self) -> list[str]:
        """There is news in the ledger, by a hook, the CLI or ourselves: take it over, judge and enforce. Returns what
        was enforced."""
        try:
            self._take_spool()
            self._ledger.changed_by_others()
            self._reload()
            if self._survey_timer.due(self._tick.elapsed):
                self._census.survey()
            return self.enforce()
        except LedgerError as error:
            self._ledger_failed(error)
            return []

    def _reload(self) -> None:
        """Take over what the ledger says of VMs and bindings."""
        moment, known = self._moment, self._roster.entries.keys()
        if not self._close_accounts(moment, known):
            return
        refiled = self._roster.load(moment)
        # A VM of which we hear now may have come and gone already.
        if met := self._roster.entries.keys() - known:
            self._close_accounts(moment, met)
        self._trusted = moment.trusted
        self._census.load(self._roster.entries)
        self._keep()
        self._open_periods(refiled)
        self._roll(moment)
        self._judge(list(self._roster.entries), moment)

    def _close_accounts(self, moment: Moment, vm_ids: Collection[int]) -> bool:
        """Credit and write what ended bindings of these VMs counted to their last byte. Whether that worked."""
        try:
            self._metering.settle(moment.at, self._roster.period_of(moment.trusted), vm_ids)
        except MeterError as error:
            self._complaints.of(f"meter {self._metering.meter.name}", str(error))
            return False
        if not self.commit(heirs=True):
            return False
        self._metering.release()
        return True

    def _open_periods(self, refiled: Collection[int]) -> None:
        """Let the tally go on from the ledger's sums; where it already stands in the period, its own are newer."""
        for vm_id, entry in self._roster.entries.items():
            start = entry.period.start
            if vm_id in refiled or not self._tally.stands_in(vm_id, start):
                self._tally.open_period(vm_id, start, usagelog.of_period(self._ledger, vm_id, start))

    def on_rules(self) -> None:
        """Somebody changed the host's nft rules: ours may be among them."""
        # Who loads a firewall may have flushed the legacy tables with it, which nobody tells of: firewalld does.
        self._enforce_timer.hasten()
        self._latches.forget()
        if not self._metering.seals:
            return
        self._metering.forget_rules()
        try:
            self._measure(self._now())
            self._keep()
            self._judge((), self._moment)
        except LedgerError as error:
            self._ledger_failed(error)

    # acting

    def _keep(self) -> None:
        """See that our counters stand on every interface. What passed some of them by is counted by the kernel's."""
        try:
            guard = self._guard
            self._metering.keep(
                self._census.bound, self._arriving(), guard.blocked, guard.allow, lambda: self._credit(self._now())
            )
        except MeterError as error:
            self._complaints.of(f"meter {self._metering.meter.name}", str(error))

    def _arriving(self) -> list[Port]:
        ports = []
        for vif, facts in self._census.arriving:
            vm = self._ledger.vm_named(facts.name or "")
            guard, whose = self._guard, None if vm is None else vm.id
            ports.append(Port(*vif.life, vif.interface, facts.mac, whose in guard.blocked, guard.allow.of(whose)))
        return ports

    def _keep_in_any_case(self) -> None:
        """The guard's seal. Null routes follow it, whatever the ledger says to what was counted."""
        try:
            self._keep()
        except LedgerError as error:
            self._ledger_failed(error)

    def commit(self, *, heirs: bool = False, durable: bool = True) -> bool:
        """Write what was counted; durable: and see it on the disk, which may take its time. Whether that worked; if
        not, it is kept and written the next time."""
        moment = self._moment
        alive = Alive(moment.at, self._tick.elapsed, self._boot_id)
        try:
            usagelog.commit(self._ledger, self._tally.pending(), alive, heirs=heirs)
        except LedgerError as error:
            self._ledger_failed(error)
            return False
        self._tally.settled()
        self._alive = alive
        if not durable:
            return True
        try:
            self._ledger.sync()
        except OSError as error:
            self._complaints.of("ledger", f"{self._ledger.path}: {error.strerror}")
        else:
            self._complaints.of("ledger", None)
        return True

    def enforce(self) -> list[str]:
        """Make the kernel's blocks what the ledger says. Returns what had to be changed."""
        return self._hold() + self._judge_crossed()

    def _judge_crossed(self) -> list[str]:
        """Judge who was found to have crossed something while others were blocked."""
        try:
            return self._judge((), self._moment)
        except LedgerError as error:
            self._ledger_failed(error)
            return []

    def _hold(self) -> list[str]:
        """One pass of it, by the verdicts as they are."""
        try:
            changes = self._guard.enforce(self._roster, self._moment, self._census.waiting)
        except LedgerError as error:
            self._ledger_failed(error)
            return []
        self._log_news()
        problems = [*self._guard.problems, *self._metering.problems, *self._protected.problems]
        self._complaints.obstacles(problems, self._tick.elapsed)
        return changes

    def _log_news(self) -> None:
        for level, text in self._guard.news.take():
            log.log(level, "%s", text)

    def catch_up(self) -> bool:
        """Count to this moment and write it. Whether that worked."""
        try:
            self._measure(self._now())
        except LedgerError as error:
            self._ledger_failed(error)
        return self.commit()

    def close(self) -> None:
        self._metering.close()
        self._latches.close()
        self._ledger.close()

    def configure(self, settings: Settings) -> None:
        """Take over a changed configuration, but for where the ledger and the run folder are: hooks rely on those."""
        before = self.settings
        fixed = (settings.ledger.path, settings.daemon) == (before.ledger.path, before.daemon)
        self._complaints.of(
            "config", None if fixed else "[ledger] path and [daemon] run_dir change at the next restart only"
        )
        self.settings = settings = replace(
            settings, ledger=replace(settings.ledger, path=before.ledger.path), daemon=before.daemon
        )
        self._roster.settings = settings
        self._guard.settings = settings
        self._protect()
        self._choose_meter()
        self._configure_timers()
        self._reload()
        self.enforce()

    def _refresh_protected(self) -> None:
        """Find out which addresses are never to be blocked, in a thread: the resolver may take its time."""
        if self._asking is not None and self._asking.is_alive():
            return

        def refresh() -> None:
            self._protected.refresh(self.settings.helpers, self.settings.mongodb.uri)
            self._protect()

        self._asking = threading.Thread(target=refresh, name="protect", daemon=True)
        self._asking.start()

    def _protect(self) -> None:
        self._guard.protect = self._protected.networks | set(self.settings.enforce.protect)

    @property
    def _pending_folder(self) -> Path:
        return pending.folder(self.settings.daemon.run_dir)

    # telling

    def take_mail(self) -> bool:
        """Whether messages were queued since the last call."""
        queued, self._guard.queued = self._guard.queued, False
        return queued

    def _count(self, *states: State) -> int:
        return sum(entry.vm.state in states for entry in self._roster.entries.values())

    def status(self) -> dict[str, Any]:
        """The state of the daemon, as the control socket tells it."""
        return {
            "started_at": format_time(self._started_at),
            "meter": self._metering.meter.name,
            "meter_reason": self._metering.reason,
            "meter_gaps": self._metering.gaps,
            "vms": len(self._roster.entries),
            "interfaces": len(self._tally.tracked),
            "over": self._count(State.OVER),
            "warned": self._count(State.WARNED),
            "blocked": self._count(State.BLOCKED),
            "null_routes": len(self._guard.plan.desired.null_routes),
            "problems": [*self._complaints.all(), *self._kept()],
            "last_commit": format_time(self._alive.at) if self._alive else None,
            "pending_vifs": len(self._census.waiting),
            "clock_trusted": self._moment.trusted,
            "clock": self._timeline.trust.value,
        }

    def _kept(self) -> list[str]:
        names = sorted(one.vm.name for one in self._roster.entries.values() if one.vm.blocked_reason == kept.REASON)
        return [f"{', '.join(names)}: {kept.REASON}"] if names else []

    def summary(self) -> str:
        """The same in a line, for systemctl status."""
        text = (
            f"{len(self._tally.tracked)} vifs of {len(self._roster.entries)} VMs metered ({self._metering.meter.name})"
        )
        text += f", {self._count(State.OVER)} over, {len(self._guard.plan.desired.null_routes)} addresses null-routed"
        problems = len(self._complaints.all())
        return text + (f"; {problems} problems: xenbw status" if problems else "")

"""Reconciling: apply every block to the VMs that are blocked by the ledger, and tell the hook which those are.

Used by the daemon in its rounds, and by the CLI if no daemon runs.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from xenbw.allow import Exceptions
from xenbw.blocks import method
from xenbw.blocks.block import Block as Blocker
from xenbw.blocks.block import Line, Outcome, Wanted
from xenbw.blocks.tripwire_text import quota_of
from xenbw.clock import Moment
from xenbw.config import Settings
from xenbw.enforce import desired
from xenbw.enforce.desired import Hold, Plan, Present
from xenbw.errors import XenbwError
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge
from xenbw.ledger import aliases, viflog
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.model import Address, Binding, Block, Counters, Network, Rates
from xenbw.nft.port import Port
from xenbw.nft.tables import Tables
from xenbw.rundir import overfile, pending, turn
from xenbw.rundir.dropped import Dropped
from xenbw.runner import Runner
from xenbw.tell.announcement import unfiltered
from xenbw.vifs import interfaces

_WIRES, _NULL_ROUTES = ("tripwire", "throttle"), "null routes"


class Reconciler:
    """Holds the VMs that are blocked by the ledger, or by verdicts that could not be recorded in it.

    protect: networks that are never blocked. meter: the daemon's meter. method: by what addresses are null-routed.
    Hooks have to know both. plan: the null routes of the last reconciling. problems: what kept its blocks from holding.
    unfiltered: those of bridges, which have an announcement of their own.
    """

    def __init__(
        self, ledger: Ledger, settings: Settings, judge: Judge, blocks: Sequence[Blocker], boot_id: str
    ) -> None:
        self._ledger, self.settings, self._judge, self._blocks = ledger, settings, judge, blocks
        self._boot_id = boot_id
        self.protect: frozenset[Network] = frozenset(settings.enforce.protect)
        self.meter, self.method, self.method_problem = "kernel", "iptables", ""
        self.plan = Plan({}, {}, {}, {}, frozenset())
        self.problems: list[str] = []
        self.unfiltered: set[str] = set()
        self._holders: list[desired.Holder] = []
        self._hold = Hold(frozenset(), Exceptions(settings.enforce.exceptions), {}, {})
        self._throttled: frozenset[int] = frozenset()
        self._aliased: Mapping[int, datetime] = {}
        # Null routes and their method, by the block's name.
        self._applied: dict[str, tuple[Mapping[Address, str], Exceptions, str]] = {}
        self._told: Mapping[str, Sequence[str]] = {}  # what the ledger's meta tells hooks
        self._unfiltered: set[tuple[int, str]] = set()

    def choose(self, tables: Tables, run: Runner) -> None:
        """Choose by what addresses are null-routed from now on."""
        self.method, self.method_problem = method.choose(self.settings.enforce.null_routes, tables, run)

    def ports(self, roster: Roster, present: Present) -> tuple[Port, ...]:
        """Every vif, sealed if its VM was blocked at the last reconciling."""
        ids = {entry.vm.name: vm_id for vm_id, entry in roster.entries.items()} if present.arriving else {}
        return desired.ports(present, self._hold, ids)

    @property
    def blocked(self) -> frozenset[int]:
        """The ids of the VMs that were blocked at the last reconciling."""
        return self._hold.blocked

    def shut(self) -> dict[int, float]:
        """The vifs on which tc drops everything: ifindex -> since when, in seconds since 1970."""
        return Dropped(str(self.settings.daemon.run_dir)).since()

    def reconcile(self, roster: Roster, usage: Mapping[int, Counters], moment: Moment, present: Present) -> list[str]:
        """Make the kernel's blocks what the ledger says, and tell the hook. usage: on this host, by VM. Returns what
        blocks changed; failures are in `problems`. Raises LedgerError."""
        # The turn is taken first: if a hook changed null routes after the ledger is read here, we would undo that.
        with self._turn():
            # The notes come first: a hook that withdraws its note has written to the ledger by then.
            started = pending.started(pending.folder(self.settings.daemon.run_dir))
            blocks = {**self._judge.unrecorded, **self._ledger.active_blocks()}
            latest = desired.present(viflog.latest(self._ledger), self._boot_id)
            holders = desired.holders(roster, blocks, latest, self._arrived(roster, blocks, latest, started))
            plan = desired.plan(holders, self.protect)
            self._holders = holders
            self._throttled = desired.throttled(roster, blocks, self._judge.throttled)
            allow, lines = desired.exceptions(roster, self.settings), self._lines(roster, usage)
            self._aliased = aliases.known(self._ledger, moment.at)
            aliased = {id_: 1 + int((until - moment.at).total_seconds()) for id_, until in self._aliased.items()}
            self._hold = Hold(frozenset(blocks), allow, self._rates(roster, lines), aliased)
            self.problems = desired.obstacles(plan) + ([self.method_problem] if self.method_problem else [])
            before = self.plan if self._applied else plan
            self._judge.news.moved(desired.added(before, plan), desired.added(plan, before))
            self.plan = plan
            wanted = replace(self._wanted(roster, latest, started, present), lines=lines)
            self._tell_hook(roster, blocks, plan, wanted)
            outcomes = self._apply_all(wanted)
        self.problems += [problem for outcome in outcomes for problem in outcome.problems]
        self.unfiltered.clear()
        if not any(outcome.seals for outcome in outcomes):
            shut = frozenset[int]().union(*(outcome.shut for outcome in outcomes))
            passing = [one for one in latest if one.ended_at is None and one.ifindex not in shut]
            self.problems += _unreached(plan, roster, blocks, passing)
            if not any(outcome.bridged for outcome in outcomes):
                self._check_bridges(roster, blocks, passing, moment)
        return [change for outcome in outcomes for change in outcome.changes]

    def hasten(self, roster: Roster) -> None:
        """Null-route the VMs that were blocked since the last reconciling. The next one, which looks at all vifs and
        reports problems, has to follow. Raises LedgerError."""
        with self._turn():
            # The addresses' holders are those of the last reconciling; a hook that ran since may have changed them.
            started = pending.started(pending.folder(self.settings.daemon.run_dir))
            if started or self._ledger.changed_by_others(look=False):
                return
            blocks = self._judge.unrecorded.keys() | self._ledger.active_blocks().keys()
            blocked = {roster.entries[vm_id].vm.name for vm_id in blocks & roster.entries.keys()}
            holders = [replace(one, blocked=one.blocked or one.name in blocked) for one in self._holders]
            plan = desired.plan(holders, self.protect)
            names = {roster.entries[vm_id].vm.name for vm_id in self._hold.blocked & roster.entries.keys()}
            self._warn_hook(blocked - names, plan)
            allow = desired.by_name(desired.exceptions(roster, self.settings), roster)
            wanted = Wanted(plan.null_routes, allow=allow, method=self.method)
            for block in self._blocks:
                if block.name == _NULL_ROUTES and plan.null_routes != self.plan.null_routes:
                    with suppress(XenbwError):
                        block.apply(wanted)

    def wire(self, roster: Roster, usage: Mapping[int, Counters], present: Present) -> None:
        """Put the tripwires and throttles back where other programs deleted them. Problems are told by `reconcile`."""
        wanted = Wanted(ports=self.ports(roster, present), lines=self._lines(roster, usage))
        for block in self._blocks:
            if block.name in _WIRES:
                with suppress(XenbwError):
                    block.apply(wanted)

    def _lines(self, roster: Roster, usage: Mapping[int, Counters]) -> tuple[Line, ...]:
        return desired.lines(roster, usage, self._throttled, metered=self.meter == "nft")

    @staticmethod
    def _rates(roster: Roster, lines: Iterable[Line]) -> dict[int, Rates]:
        found = {line.vm_id: roster.entries[line.vm_id].allowance.rates for line in lines if line.kind == "slow"}
        return {vm_id: rates for vm_id, rates in found.items() if rates is not None}

    def _wanted(
        self, roster: Roster, latest: Collection[Binding], started: Iterable[pending.Start], present: Present
    ) -> Wanted:
        names = {vm_id: entry.vm.name for vm_id, entry in roster.entries.items()}
        live = [one for one in latest if one.ended_at is None and one.vm_id in self._hold.blocked]
        domids = {
            domid: names.get(vm_id, "")
            for domid, vm_id in desired.running(latest, self._hold.blocked, self._boot_id).items()
        }
        blocked = {names[vm_id] for vm_id in self._hold.blocked & names.keys()}
        allow = desired.by_name(self._hold.allow, roster)
        shut = {one.ifindex: one.interface for one in live if not self._hold.allow.of(one.vm_id)}
        # Of these the ledger could not be told yet.
        noted = [start for start in started if start.name in blocked]
        domids |= {start.domid: start.name for start in noted}
        shut |= {one.ifindex: one.interface for one in noted if not one.ended and not allow.of(one.name)}
        return Wanted(
            self.plan.null_routes,
            self.ports(roster, present),
            shut,
            frozenset(present.starting),
            domids,
            {one.ifindex: one.domid for one in latest if one.ended_at is None},
            allow,
            method=self.method,
        )

    def _apply_all(self, wanted: Wanted) -> list[Outcome]:
        outcomes = []
        for block in self._blocks:
            outcomes.append(self._apply(block, wanted))
            left = {index: name for index, name in wanted.shut.items() if index not in outcomes[-1].shut}
            wanted = replace(wanted, shut=left)
        return outcomes

    def _apply(self, block: Blocker, wanted: Wanted) -> Outcome:
        try:
            outcome = block.apply(wanted)
        except XenbwError as error:
            return Outcome(problems=(str(error),))
        routes = (wanted.null_routes, wanted.allow, wanted.method)
        if outcome.changes and self._applied.get(block.name) == routes:
            self._judge.news.repaired(outcome.changes)
        self._applied[block.name] = routes
        return outcome

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep hooks from changing null routes inside this context."""
        locks: list[int] = []
        turn.take(turn.lock_of(str(self.settings.daemon.run_dir)), locks)
        try:
            yield
        finally:
            for lock in locks:
                os.close(lock)

    def _arrived(
        self, roster: Roster, blocks: Mapping[int, Block], latest: Iterable[Binding], started: Iterable[pending.Start]
    ) -> dict[str, set[Address]]:
        """Addresses of VMs that just started, by VM name: of vifs that could not be recorded in the ledger, and of VMs
        that are not in the roster yet. VMs with a block are left out of the latter; they wait for the roster."""
        arrived, known = pending.running(started), roster.entries.keys() | blocks.keys()
        met = [one for one in latest if one.ended_at is None and one.vm_id not in known]
        names = self._ledger.vms() if met else {}
        for binding in met:
            if binding.vm_id in names:
                arrived.setdefault(names[binding.vm_id].name, set()).update(binding.ips)
        return arrived

    def _tell_hook(self, roster: Roster, blocks: Mapping[int, Block], plan: Plan, wanted: Wanted) -> None:
        blocked: dict[str, list[str]] = {
            entry.vm.name: [] for vm_id, entry in roster.entries.items() if vm_id in blocks
        }
        for address, name in plan.null_routes.items():
            blocked[name].append(str(address))
        protected = sorted(str(network) for network in self.protect)
        self._tell_hook_by_ledger(
            {
                "protected": protected,
                "allow": self.settings.enforce.exceptions,
                "rates": tuple(map(str, self.settings.default_allowance.rates or ())),
                "null_routes": (self.method,),
            }
        )
        try:
            self.settings.daemon.run_dir.mkdir(parents=True, exist_ok=True)
            overfile.write(
                str(over_path(self.settings)),
                str(self.settings.ledger.path),
                protected,
                sorted(str(address) for address in plan.held),
                blocked,
                self.meter,
                wanted.allow,
                {roster.entries[vm_id].vm.name: (vm_id, *rates) for vm_id, rates in self._hold.rates.items()},
                self._left(roster, wanted.lines),
                self.method,
                {
                    roster.entries[vm_id].vm.name: int(until.timestamp())
                    for vm_id, until in self._aliased.items()
                    if vm_id in roster.entries
                },
            )
        except OSError as error:
            self.problems.append(f"{over_path(self.settings)}: {error.strerror}: hooks rely on the ledger alone")

    def _warn_hook(self, names: Collection[str], plan: Plan) -> None:
        """Add VMs to those that the hook knows as blocked. If the daemon is killed before the next reconciling and one
        of them starts again, the hook puts all blocks on it; else only its tripwire would hold it."""
        freed = sorted(map(str, self.plan.held - plan.held))
        lines = [overfile.free_line(freed)] if freed else []
        for name in sorted(names):
            addresses = sorted(str(address) for address, holder in plan.null_routes.items() if holder == name)
            lines.append(overfile.blocked_line(name, addresses))
        # The next reconciling writes the whole file, and tells why it cannot.
        with suppress(OSError):
            overfile.append(str(over_path(self.settings)), "".join(lines))

    @staticmethod
    def _left(roster: Roster, lines: Iterable[Line]) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for line in lines:
            left = 0 if line.limit is None else max(0, line.limit - line.used)
            found.setdefault(roster.entries[line.vm_id].vm.name, {})[quota_of(*line[:3])] = left
        return found

    def _tell_hook_by_ledger(self, facts: Mapping[str, Sequence[str]]) -> None:
        """Write what a hook has to know that finds no file of a daemon, after a boot without one."""
        if facts != self._told:
            with suppress(LedgerError):
                for key, words in facts.items():
                    self._ledger.set_meta(key, " ".join(words))
                self._told = facts

    def _check_bridges(
        self, roster: Roster, blocks: Mapping[int, Block], passing: Collection[Binding], moment: Moment
    ) -> None:
        """A null route has no effect on a bridge whose frames iptables does not see: say so once by mail, and in status
        as long as it lasts. passing: live bindings that are not shut by a block."""
        blind = {version for version in (4, 6) if not interfaces.bridge_filtered(version)}
        open_now = {
            (binding.vm_id, binding.bridge)
            for binding in passing
            if binding.vm_id in blocks
            and binding.bridge
            and blind.intersection(address.version for address in binding.ips or ())
            | (blind if not binding.ips else set())
        }
        for vm_id, bridge in sorted(open_now):
            entry = roster.entries[vm_id]
            self.problems.append(
                f"{entry.vm.name}: THE BLOCK DOES NOT HOLD: iptables does not see bridge {bridge}'s frames"
                " (modprobe br_netfilter)"
            )
            self.unfiltered.add(self.problems[-1])
            if (vm_id, bridge) not in self._unfiltered:
                told = unfiltered(self._judge.case(entry, None, moment.at), bridge, self.problems[-1])
                with self._ledger.transaction():
                    self._judge.announce(told, vm_id, moment.at)
        # A VM that restarts all the time is announced once.
        self._unfiltered = {pair for pair in self._unfiltered | open_now if pair[0] in blocks}


def _unreached(plan: Plan, roster: Roster, blocks: Mapping[int, Block], passing: Iterable[Binding]) -> list[str]:
    """Problems for running blocked VMs that have no null route. passing: live bindings that are not shut by a
    block."""
    found = []
    routed = set(plan.null_routes.values())
    running = {binding.vm_id for binding in passing}
    for vm_id in blocks.keys() & roster.entries.keys() & running:
        name = roster.entries[vm_id].vm.name
        if name not in routed:
            found.append(
                f"{name}: THE BLOCK DOES NOT HOLD: no address of it is known that may be blocked"
                f" (xenbw-addvm {shlex.quote(name)} --ip ADDRESS)"
            )
    return sorted(found)


def over_path(settings: Settings) -> Path:
    """The file that tells hooks who is blocked."""
    return settings.daemon.run_dir / "over"

"""Who is over, and keeping them out: verdicts go into the ledger and to the admin, blocks into the kernel.

Used by the daemon in its loop, and by the CLI when no daemon answers.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from xenbw import quota
from xenbw.allow import Exceptions
from xenbw.blocks.link import Links
from xenbw.blocks.wanted import Desired
from xenbw.clock import Moment
from xenbw.config import Settings
from xenbw.enforce import desired
from xenbw.enforce.desired import Holder, Plan
from xenbw.errors import XenbwError
from xenbw.judge.roster import Roster
from xenbw.ledger import blocklog, outbox, viflog
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.ledger.outbox import Channel
from xenbw.model import ZERO, Address, Binding, Block, Cause, Counters, Entry, Network
from xenbw.quota import Standing
from xenbw.rundir import overfile, pending, turn
from xenbw.tell import carriers, message
from xenbw.tell.announcement import Announcement, announcement, unfiltered, why_released
from xenbw.tell.news import News
from xenbw.vifs import interfaces

Seal = Callable[[], None]
"""seal(): seal the interfaces of the VMs in `Guard.blocked`, and open the others'."""

Latch = Callable[[Iterable[Binding], Container[int], Mapping[int, int], Exceptions], str | None]
"""latch(latest, blocked, starting, allow): have nothing come from cards that running domains of blocked VMs, by their
newest bindings and those that hooks left (domid -> the VM's id), are yet to get, but to what the VM is allowed. What is
wrong, or None."""

_NOBODY: Mapping[str, Collection[Address]] = MappingProxyType({})
_EVER = datetime.min.replace(tzinfo=UTC)


class Method(Protocol):
    """A way to block: makes the kernel's state what is desired, and tells what it had to change."""

    name: str

    def probe(self) -> str | None: ...

    def apply(self, desired: Desired) -> list[str]: ...


class Guard:
    """Judges VMs and enforces the judgements. `protect` is the set of addresses that are never blocked."""

    def __init__(self, ledger: Ledger, settings: Settings, methods: Sequence[Method]) -> None:
        self._ledger, self.settings, self._methods = ledger, settings, methods
        self.protect: frozenset[Network] = frozenset(settings.enforce.protect)
        self.problems: list[str] = []  # what stands in the way of blocks just now
        self.plan = Plan(Desired({}), {}, {}, {}, frozenset())
        self.news = News()
        self.meter = "kernel"  # the daemon's, which hooks have to know
        self.seal: Seal | None = None  # None: interfaces cannot be sealed here
        self.latch: Latch | None = None
        self.blocked: frozenset[int] = frozenset()  # ids of the VMs that are blocked
        self.allow = Exceptions(settings.enforce.exceptions)  # what they may reach, by their ids
        self.queued = False  # whether a message was put into the outbox; whoever sends them resets it
        self.failure: LedgerError | None = None  # why the last judgement could not be recorded
        self.unsettled: set[int] = set()  # VMs whose judgement could not be recorded, to be judged again
        self._unrecorded: dict[int, Block] = {}  # those of them that are blocked, all the same
        self._unfiltered: set[tuple[int, str]] = set()
        self._applied: dict[str, Desired] = {}  # by the method's name
        self._addresses: dict[int, set[Address]] | None = None
        self._networks_told: tuple[list[str], tuple[str, ...]] | None = None
        self._links = Links(str(settings.daemon.run_dir))

    # judging

    def judge(self, roster: Roster, usage: Mapping[int, Counters], vm_ids: Iterable[int], moment: Moment) -> bool:
        """Judge these VMs; record and announce what changed. Whether blocks changed."""
        blocks = self._ledger.active_blocks()
        changed, self.failure, self._addresses = False, None, None
        for vm_id in vm_ids:
            entry = roster.entries[vm_id]
            used = entry.used(usage.get(vm_id, ZERO))
            standing = quota.stand(entry.vm, entry.allowance, entry.enforced, used, entry.period)
            block = blocks.get(vm_id)
            cause, until = (block.cause, block.until) if block else (None, None)
            unrecorded = self._unrecorded.pop(vm_id, None)
            self.unsettled.discard(vm_id)
            if (standing.state, standing.block) == (entry.vm.state, cause) and block_until(entry, cause) == until:
                self.news.as_recorded(vm_id)
                changed = changed or unrecorded is not None
                continue
            try:
                self._settle(entry, standing, block, moment.at)
                roster.entries[vm_id] = _standing_now(entry, standing, moment.at)
            except LedgerError as error:
                # A full disk must not let a VM through: it is blocked now and recorded when that works again.
                self.failure = error
                self.unsettled.add(vm_id)
                if standing.block is not None:
                    until = block_until(entry, standing.block)
                    self._unrecorded[vm_id] = Block(vm_id, standing.block, standing.reason, moment.at, until)
            changed = changed or cause != standing.block
        return changed

    def _settle(self, entry: Entry, standing: Standing, block: Block | None, at: datetime) -> None:
        """Record a verdict and announce it. Raises LedgerError."""
        until, recorded = block_until(entry, standing.block), False
        told = announcement(entry, standing, block, until, lambda: self._case(entry, standing, at))
        try:
            with self._ledger.transaction():
                self._record(entry, standing, block, until, at)
                if told is not None:
                    self._announce(told, entry.vm.id, at)
            recorded = True
        finally:
            if told is not None:
                self.news.verdict(entry.vm, told, recorded=recorded)

    def _record(
        self, entry: Entry, standing: Standing, block: Block | None, until: datetime | None, at: datetime
    ) -> None:
        vm = entry.vm
        since = vm.state_since if standing.state is vm.state else at
        self._ledger.set_vm(vm.id, state=standing.state, state_reason=standing.reason, state_since=since)
        if standing.block is not None:
            blocklog.block(self._ledger, vm.id, standing.block, standing.reason, at, until)
        elif block is not None:
            blocklog.lift(self._ledger, vm.id, at, why_released(block, standing, at))

    def _announce(self, told: Announcement, vm_id: int, at: datetime) -> None:
        self._ledger.record(at, told.kind, told.text, vm_id)
        for channel in carriers.channels(self.settings):
            body = told.document if channel is Channel.COMMAND else told.body
            outbox.queue(self._ledger, at, told.subject, body, channel)
            self.queued = True

    def _case(self, entry: Entry, standing: Standing | None, at: datetime) -> message.Case:
        # Asked once for all the VMs of a judgement: on the first of a month that may be every one.
        if self._addresses is None:
            self._addresses = {}
            for binding in viflog.latest(self._ledger):
                self._addresses.setdefault(binding.vm_id, set()).update(binding.ips)
        addresses = self._addresses.get(entry.vm.id, set()).union(entry.vm.ips)
        ordered = sorted(addresses, key=lambda address: (address.version, int(address)))
        return message.Case(
            host=self.settings.host_name,
            name=entry.vm.name,
            reason=standing.reason if standing else entry.vm.state_reason,
            addresses=ordered,
            period=entry.period,
            at=at,
            zone=self.settings.period.timezone,
            allowance=entry.allowance,
            used_bytes=standing.verdict.used_bytes if standing else None,
        )

    # enforcing

    def enforce(self, roster: Roster, moment: Moment, starting: Collection[int] = ()) -> list[str]:
        """Make the kernel's blocks what the ledger says, and tell the hook. Returns what had to be changed; what could
        not be done is in `problems`. starting: ifindexes whose VM only their hook knows yet."""
        changes: list[str] = []
        # What a hook has done after the ledger was read would be undone by what was reckoned from it.
        with self._turn():
            blocks, latest = {**self._unrecorded, **self._ledger.active_blocks()}, viflog.latest(self._ledger)
            started = pending.started(pending.folder(self.settings.daemon.run_dir))
            arrived = self._arrived(roster, blocks, latest, started)
            self.allow = exceptions(roster, self.settings)
            plan = desired.plan(holders(roster, blocks, latest, arrived), self.protect, _by_name(self.allow, roster))
            self.blocked = frozenset(blocks)
            self.problems = _obstacles(plan)
            before = self.plan if self._applied else plan
            self.news.moved(desired.added(before, plan), desired.added(plan, before))
            self.plan = plan
            self._tell_hook(roster, blocks, plan)
            if self.seal is not None:
                self.seal()
            for method in self._methods:
                try:
                    changes += self._apply(method)
                except XenbwError as error:
                    self.problems.append(str(error))
        live = [one for one in latest if one.ended_at is None and one.vm_id in blocks]
        shut = [one for one in live if not self.allow.of(one.vm_id)]
        self.problems += self._links.keep({binding.ifindex: binding.interface for binding in shut}, starting)
        if self.latch is not None:
            wrong = self.latch(latest, self.blocked, self._starting(roster, started), self.allow)
            self.problems += [wrong] if wrong is not None else []
        if self.seal is None:
            down = self._links.lowered()
            passing = [one for one in latest if one.ended_at is None and one.ifindex not in down]
            self.problems += _unreached(plan, roster, blocks, passing)
            self._check_bridges(roster, blocks, passing, moment)
        return changes

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Keep hooks from changing null routes meanwhile."""
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
        """Addresses that VMs, by their names, have begun to run with just now: those of vifs of which the ledger could
        not be told, and of VMs that are not in the roster yet. A block that is, for its part, waits for the roster."""
        arrived, known = pending.running(started), roster.entries.keys() | blocks.keys()
        met = [one for one in latest if one.ended_at is None and one.vm_id not in known]
        names = self._ledger.vms() if met else {}
        for binding in met:
            if binding.vm_id in names:
                arrived.setdefault(names[binding.vm_id].name, set()).update(binding.ips)
        return arrived

    def _starting(self, roster: Roster, started: Iterable[pending.Start]) -> dict[int, int]:
        """Domids of blocked VMs of which the ledger could not be told, and whose they are."""
        blocked = {entry.vm.name: vm_id for vm_id, entry in roster.entries.items() if vm_id in self.blocked}
        return {start.domid: blocked[start.name] for start in started if start.name in blocked}

    def _apply(self, method: Method) -> list[str]:
        changes = method.apply(self.plan.desired)
        if changes and self._applied.get(method.name) == self.plan.desired:
            self.news.repaired(changes)
        self._applied[method.name] = self.plan.desired
        return changes

    def _tell_hook(self, roster: Roster, blocks: Mapping[int, Block], plan: Plan) -> None:
        blocked: dict[str, list[str]] = {
            entry.vm.name: [] for vm_id, entry in roster.entries.items() if vm_id in blocks
        }
        for address, name in plan.desired.null_routes.items():
            blocked[name].append(str(address))
        protected, allow = sorted(str(network) for network in self.protect), self.settings.enforce.exceptions
        if (protected, allow) != self._networks_told:
            # For a hook that finds no file of a daemon, after a boot without one.
            with suppress(LedgerError):
                self._ledger.set_meta("protected", " ".join(protected))
                self._ledger.set_meta("allow", " ".join(allow))
                self._networks_told = (protected, allow)
        try:
            self.settings.daemon.run_dir.mkdir(parents=True, exist_ok=True)
            overfile.write(
                str(over_path(self.settings)),
                str(self.settings.ledger.path),
                protected,
                sorted(str(address) for address in plan.held),
                blocked,
                self.meter,
                plan.desired.allow,
            )
        except OSError as error:
            self.problems.append(f"{over_path(self.settings)}: {error.strerror}: hooks rely on the ledger alone")

    def _check_bridges(
        self, roster: Roster, blocks: Mapping[int, Block], passing: Collection[Binding], moment: Moment
    ) -> None:
        """A null route on a bridge that iptables does not see is none: that is said once by mail, and in status for as
        long as it lasts. passing: live bindings whose links are not down for a block."""
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
            if (vm_id, bridge) not in self._unfiltered:
                told = unfiltered(self._case(entry, None, moment.at), bridge, self.problems[-1])
                with self._ledger.transaction():
                    self._announce(told, vm_id, moment.at)
        # One that restarts all the time is told of once.
        self._unfiltered = {pair for pair in self._unfiltered | open_now if pair[0] in blocks}


def _standing_now(entry: Entry, standing: Standing, at: datetime) -> Entry:
    since = entry.vm.state_since if standing.state is entry.vm.state else at
    vm = replace(entry.vm, state=standing.state, state_reason=standing.reason, state_since=since)
    return replace(entry, vm=vm)


def _obstacles(plan: Plan) -> list[str]:
    """Why some blocked VM is not wholly null-routed, or one in good standing may come to be."""
    found = [f"{name}: {address} is protected and is not blocked" for address, name in plan.protected.items()]
    found += [
        f"{name}: {address} is not blocked: {other}, in good standing, holds it too"
        for address, (name, other) in plan.withheld.items()
    ]
    found += [
        f"{' and '.join(names)}: all run with {address}: one of them has it wrong"
        for address, names in plan.shared.items()
        if address not in plan.withheld
    ]
    return sorted(found)


def _unreached(plan: Plan, roster: Roster, blocks: Mapping[int, Block], passing: Iterable[Binding]) -> list[str]:
    """Which blocked VMs no null route reaches, of those with live bindings whose links are not down for a block."""
    found = []
    routed = set(plan.desired.null_routes.values())
    running = {binding.vm_id for binding in passing}
    for vm_id in blocks.keys() & roster.entries.keys() & running:
        name = roster.entries[vm_id].vm.name
        if name not in routed:
            found.append(
                f"{name}: THE BLOCK DOES NOT HOLD: no address of it is known that may be blocked"
                f" (xenbw-addvm {shlex.quote(name)} --ip ADDRESS)"
            )
    return sorted(found)


def exceptions(roster: Roster, settings: Settings) -> Exceptions:
    """What VMs may reach while they are blocked, by their ids."""
    own = {vm_id: entry.vm.allow for vm_id, entry in roster.entries.items()}
    return Exceptions(
        settings.enforce.exceptions,
        {vm_id: [str(network) for network in networks] for vm_id, networks in own.items() if networks is not None},
    )


def _by_name(allow: Exceptions, roster: Roster) -> Exceptions:
    return Exceptions(allow.common, {roster.entries[vm_id].vm.name: networks for vm_id, networks in allow.own.items()})


def over_path(settings: Settings) -> Path:
    """The file that tells hooks who is blocked."""
    return settings.daemon.run_dir / "over"


def block_until(entry: Entry, cause: Cause | None) -> datetime | None:
    """When a block for that cause ends by itself."""
    return entry.period.end if cause is Cause.QUOTA else None


def holders(
    roster: Roster,
    blocks: Mapping[int, Block],
    latest: Iterable[Binding],
    arrived: Mapping[str, Collection[Address]] = _NOBODY,
) -> list[Holder]:
    """Who holds which addresses: those of their newest life, and those the admin gave them. arrived: addresses that VMs
    run with as well, by their names; one that is not in the roster is in good standing."""
    lives: dict[int, list[Binding]] = {}
    for binding in latest:
        lives.setdefault(binding.vm_id, []).append(binding)
    found = []
    for vm_id, entry in roster.entries.items():
        life, name = lives.get(vm_id, []), entry.vm.name
        runs = name in arrived or any(b.ended_at is None for b in life)
        given = frozenset(entry.vm.ips)
        live = frozenset(address for b in life if b.ended_at is None for address in b.ips).union(arrived.get(name, ()))
        known = frozenset(address for b in life for address in b.ips) | given | live
        since = max((b.started_at for b in life), default=_EVER)
        found.append(Holder(name, vm_id in blocks, live, given if runs else frozenset(), known, since))
    for name in arrived.keys() - {holder.name for holder in found}:
        live = frozenset(arrived[name])
        found.append(Holder(name, blocked=False, live=live, given=frozenset(), known=live, since=_EVER))
    return found

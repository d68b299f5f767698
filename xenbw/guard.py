"""Who is over, and keeping them out: verdicts go into the ledger and to the admin, blocks into the kernel.

Used by the daemon in its loop, and by the CLI when no daemon answers.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from xenbw import quota
from xenbw.clock import Moment
from xenbw.config import Settings
from xenbw.enforce import desired, overfile
from xenbw.enforce.desired import Desired, Holder, Network, Plan
from xenbw.errors import XenbwError
from xenbw.model import ZERO, Address, Binding, Block, Cause, Counters, State
from xenbw.net import interfaces
from xenbw.notify import message
from xenbw.quota import Standing
from xenbw.roster import Entry, Roster
from xenbw.store import outbox
from xenbw.store.ledger import Ledger, LedgerError

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
        self.plan = Plan(Desired({}), {}, {}, frozenset())
        self.queued = False  # whether a message was put into the outbox; whoever sends them resets it
        self.failure: LedgerError | None = None  # why the last judgement could not be recorded
        self.unsettled: set[int] = set()  # VMs whose judgement could not be recorded, to be judged again
        self._unrecorded: dict[int, Block] = {}  # those of them that are blocked, all the same
        self._unfiltered: set[tuple[int, str]] = set()
        self._latest: list[Binding] | None = None
        self._protected_told = ""

    # judging

    def judge(self, roster: Roster, usage: Mapping[int, Counters], vm_ids: Iterable[int], moment: Moment) -> bool:
        """Judge these VMs; record and announce what changed. Whether blocks changed."""
        blocks = self._ledger.active_blocks()
        changed, self.failure, self._latest = False, None, None
        for vm_id in vm_ids:
            entry = roster.entries[vm_id]
            used = usage.get(vm_id, ZERO).plus(entry.elsewhere)
            standing = quota.stand(entry.vm, entry.allowance, entry.enforced, used, entry.period)
            block = blocks.get(vm_id)
            cause, until = (block.cause, block.until) if block else (None, None)
            unrecorded = self._unrecorded.pop(vm_id, None)
            self.unsettled.discard(vm_id)
            if (standing.state, standing.block) == (entry.vm.state, cause) and block_until(entry, cause) == until:
                changed = changed or unrecorded is not None
                continue
            try:
                with self._ledger.transaction():
                    self._record(entry, standing, block, moment.at)
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

    def _record(self, entry: Entry, standing: Standing, block: Block | None, at: datetime) -> None:
        vm, was = entry.vm, entry.vm.state
        since = vm.state_since if standing.state is was else at
        self._ledger.set_vm(vm.id, state=standing.state, state_reason=standing.reason, state_since=since)
        if standing.block is not None:
            until = block_until(entry, standing.block)
            self._ledger.block(vm.id, standing.block, standing.reason, at, until)
            if block is None:
                self._announce("null-routed", entry, standing.reason, at, until=until)
        elif block is not None:
            why = _why_released(block, standing, at)
            self._ledger.lift(vm.id, at, why)
            self._announce("released", entry, standing.reason, at, why=why)
        elif not entry.enforced:
            return
        elif standing.state is State.WARNED and was in (State.OK, State.UNLIMITED):
            self._announce("warned", entry, standing.reason, at)
        elif standing.state is State.OVER and was is not State.OVER:
            self._announce("over", entry, standing.reason, at)

    def _announce(
        self, kind: str, entry: Entry, reason: str, at: datetime, *, until: datetime | None = None, why: str = ""
    ) -> None:
        case = self._case(entry, reason, at)
        match kind:
            case "null-routed":
                subject, body = message.null_routed(case, until)
            case "released":
                subject, body = message.released(case, why)
            case "warned":
                subject, body = message.warned(case)
            case _:
                subject, body = message.over(case)
        text = f"{entry.vm.name} {kind}: {why or reason}"
        self._ledger.record(at, kind, text, entry.vm.id)
        self._mail(at, subject, body)

    def _mail(self, at: datetime, subject: str, body: str) -> None:
        if self.settings.mail.to:
            outbox.queue(self._ledger, at, subject, body)
            self.queued = True

    def _case(self, entry: Entry, reason: str, at: datetime) -> message.Case:
        # Asked once for all the VMs of a judgement: on the first of a month that may be every one.
        self._latest = self._latest or self._ledger.latest_bindings()
        addresses: set[Address] = set(entry.vm.ips)
        for binding in self._latest:
            if binding.vm_id == entry.vm.id:
                addresses.update(binding.ips)
        ordered = sorted(addresses, key=lambda address: (address.version, int(address)))
        zone = self.settings.period.timezone
        return message.Case(self.settings.host_name, entry.vm.name, reason, ordered, entry.period, at, zone)

    # enforcing

    def enforce(self, roster: Roster, moment: Moment) -> list[str]:
        """Make the kernel's blocks what the ledger says, and tell the hook. Returns what had to be changed; what could
        not be done is in `problems`."""
        blocks, latest = {**self._unrecorded, **self._ledger.active_blocks()}, self._ledger.latest_bindings()
        plan = desired.plan(holders(roster, blocks, latest), self.protect)
        self.problems = _obstacles(plan, roster, blocks, latest)
        self.plan = plan
        self._tell_hook(roster, blocks, plan)
        changes: list[str] = []
        for method in self._methods:
            try:
                changes += method.apply(plan.desired)
            except XenbwError as error:
                self.problems.append(str(error))
        self._check_bridges(roster, blocks, latest, moment)
        return changes

    def _tell_hook(self, roster: Roster, blocks: Mapping[int, Block], plan: Plan) -> None:
        blocked: dict[str, list[str]] = {
            entry.vm.name: [] for vm_id, entry in roster.entries.items() if vm_id in blocks
        }
        for address, name in plan.desired.null_routes.items():
            blocked[name].append(str(address))
        protected = " ".join(sorted(str(network) for network in self.protect))
        if protected != self._protected_told:
            # For a hook that finds no file of a daemon, after a boot without one.
            with suppress(LedgerError):
                self._ledger.set_meta("protected", protected)
                self._protected_told = protected
        try:
            self.settings.daemon.run_dir.mkdir(parents=True, exist_ok=True)
            overfile.write(
                str(over_path(self.settings)),
                str(self.settings.ledger.path),
                protected.split(),
                sorted(str(address) for address in plan.held),
                blocked,
            )
        except OSError as error:
            self.problems.append(f"{over_path(self.settings)}: {error.strerror}: hooks rely on the ledger alone")

    def _check_bridges(
        self, roster: Roster, blocks: Mapping[int, Block], latest: Collection[Binding], moment: Moment
    ) -> None:
        """A null route on a bridge that iptables does not see is none: that is said once by mail, and in status for as
        long as it lasts."""
        blind = {version for version in (4, 6) if not interfaces.bridge_filtered(version)}
        open_now = {
            (binding.vm_id, binding.bridge)
            for binding in latest
            if binding.vm_id in blocks
            and binding.ended_at is None
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
                case = self._case(entry, entry.vm.state_reason, moment.at)
                with self._ledger.transaction():
                    self._ledger.record(moment.at, "unfiltered", self.problems[-1], vm_id)
                    self._mail(moment.at, *message.unfiltered(case, bridge))
        self._unfiltered = open_now


def _standing_now(entry: Entry, standing: Standing, at: datetime) -> Entry:
    since = entry.vm.state_since if standing.state is entry.vm.state else at
    vm = replace(entry.vm, state=standing.state, state_reason=standing.reason, state_since=since)
    return replace(entry, vm=vm)


def _obstacles(plan: Plan, roster: Roster, blocks: Mapping[int, Block], latest: Iterable[Binding]) -> list[str]:
    """Why some blocked VM is not, or not wholly, null-routed."""
    found = [f"{name}: {address} is protected and is not blocked" for address, name in plan.protected.items()]
    found += [
        f"{name}: {address} is not blocked: {other}, in good standing, holds it too"
        for address, (name, other) in plan.withheld.items()
    ]
    routed = set(plan.desired.null_routes.values())
    running = {binding.vm_id for binding in latest if binding.ended_at is None}
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


def block_until(entry: Entry, cause: Cause | None) -> datetime | None:
    """When a block for that cause ends by itself."""
    return entry.period.end if cause is Cause.QUOTA else None


def _why_released(block: Block, standing: Standing, at: datetime) -> str:
    if block.cause is Cause.ADMIN:
        return "the admin lifted the block"
    if standing.state is State.EXEMPT:
        return "the admin lifted the block until the period ends"
    if standing.state is State.OVER:
        return "its allowance no longer blocks it"
    if block.until is not None and at >= block.until:
        return "a new period began"
    return "its allowance covers its usage again"


def holders(roster: Roster, blocks: Mapping[int, Block], latest: Iterable[Binding]) -> list[Holder]:
    """Who holds which addresses: those of their newest life, and those the admin gave them."""
    lives: dict[int, list[Binding]] = {}
    for binding in latest:
        lives.setdefault(binding.vm_id, []).append(binding)
    found = []
    for vm_id, entry in roster.entries.items():
        life = lives.get(vm_id, [])
        runs = any(b.ended_at is None for b in life)
        given = frozenset(entry.vm.ips)
        live = frozenset(address for b in life if b.ended_at is None for address in b.ips)
        known = frozenset(address for b in life for address in b.ips) | given
        since = max((b.started_at for b in life), default=_EVER)
        found.append(Holder(entry.vm.name, vm_id in blocks, live, given if runs else frozenset(), known, since))
    return found

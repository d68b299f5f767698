"""What must be blocked: pure functions of which VM holds which address and which VMs are blocked."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from types import MappingProxyType

from xenbw import quota
from xenbw.allow import Exceptions
from xenbw.blocks.block import Line
from xenbw.config import Settings
from xenbw.judge.roster import Roster
from xenbw.model import ZERO, Address, Binding, Block, Count, Counters, Entry, Network, Rates, State
from xenbw.nft.port import Port

_NOBODY: Mapping[str, Collection[Address]] = MappingProxyType({})
_EVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Holder:
    """A VM and its addresses. live: of its running vifs; given: by the admin, while the VM runs; known: all of these,
    and those of its last life. since: when that life began, which decides between VMs that are down."""

    name: str
    blocked: bool
    live: frozenset[Address]
    given: frozenset[Address]
    known: frozenset[Address]
    since: datetime


@dataclass(frozen=True)
class Plan:
    """The null routes, and what the admin and the hook have to know beside them.

    null_routes: address -> name of the blocked VM that holds it; all null routes that there should be.
    protected: addresses of blocked VMs that are never blocked -> that VM's name.
    withheld: addresses that a blocked VM runs with but a VM in good standing holds -> both names.
    shared: addresses that several VMs run with, blocked or not -> their names.
    held: addresses that running VMs in good standing hold.
    """

    null_routes: Mapping[Address, str]
    protected: Mapping[Address, str]
    withheld: Mapping[Address, tuple[str, str]]
    shared: Mapping[Address, tuple[str, ...]]
    held: frozenset[Address]


def is_protected(address: Address, protect: Collection[Network]) -> bool:
    """Whether an address is never blocked, whichever VM has it."""
    return (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or any(address.version == network.version and address in network for network in protect)
    )


def plan(holders: Collection[Holder], protect: Collection[Network]) -> Plan:
    """The null routes for these holders.

    An address is blocked only while a blocked VM holds it and no VM in good standing does. A VM that runs with it on a
    vif holds it before a VM to which the admin gave it, and a running VM before a VM that is down. Of VMs that are
    down, the last to run holds it. Of two VMs with an equal claim, the VM in good standing holds it.
    """
    owners: dict[Address, Holder] = {}
    for holder in sorted(holders, key=lambda holder: (holder.since, not holder.blocked)):
        owners |= dict.fromkeys(holder.known, holder)
    standing_last = sorted(holders, key=lambda holder: not holder.blocked)
    for claim in ("given", "live"):
        for holder in standing_last:
            owners |= dict.fromkeys(getattr(holder, claim), holder)
    claims: dict[Address, list[str]] = {}
    for holder in sorted(holders, key=lambda holder: holder.name):
        for address in holder.live:
            claims.setdefault(address, []).append(holder.name)
    routes = {address: owner.name for address, owner in owners.items() if owner.blocked}
    refused = {address: name for address, name in routes.items() if is_protected(address, protect)}
    return Plan(
        {address: name for address, name in routes.items() if address not in refused},
        refused,
        {
            address: (holder.name, owners[address].name)
            for holder in holders
            if holder.blocked
            for address in holder.live | holder.given
            if not owners[address].blocked
        },
        {address: tuple(names) for address, names in claims.items() if len(names) > 1},
        frozenset(
            address for address, owner in owners.items() if not owner.blocked and address in owner.live | owner.given
        ),
    )


def added(before: Plan, after: Plan) -> dict[str, list[str]]:
    """The null routes that only `after` has, by VM. Addresses that `before` could not block are left out: that was
    reported as a problem."""
    found: dict[str, list[str]] = {}
    routes = after.null_routes
    for address, name in sorted(routes.items(), key=lambda route: (route[0].version, int(route[0]))):
        spared = address in before.protected or address in before.withheld
        if before.null_routes.get(address) != name and not spared:
            found.setdefault(name, []).append(str(address))
    return found


def obstacles(plan: Plan) -> list[str]:
    """Why a blocked VM is not fully null-routed, or why a VM in good standing may be null-routed."""
    found = [f"{name}: {address} is protected and is not blocked" for address, name in plan.protected.items()]
    found += [
        f"{name}: {address} is not blocked: {other}, in good standing, holds it too"
        for address, (name, other) in plan.withheld.items()
    ]
    found += [
        f"{' and '.join(names)}: all run with {address}: only one of them should"
        for address, names in plan.shared.items()
        if address not in plan.withheld
    ]
    return sorted(found)


def exceptions(roster: Roster, settings: Settings) -> Exceptions:
    """The networks that VMs may reach while they are blocked, by VM id."""
    own = {vm_id: entry.vm.allow for vm_id, entry in roster.entries.items()}
    return Exceptions(
        settings.enforce.exceptions,
        {vm_id: [str(network) for network in networks] for vm_id, networks in own.items() if networks is not None},
    )


def by_name(allow: Exceptions, roster: Roster) -> Exceptions:
    """These exceptions by VM name."""
    return Exceptions(allow.common, {roster.entries[vm_id].vm.name: networks for vm_id, networks in allow.own.items()})


def present(bindings: Iterable[Binding], boot_id: str) -> list[Binding]:
    """The bindings as they stand in this boot: one of another boot has ended, although only the daemon records that."""
    return [
        one if one.boot_id == boot_id else replace(one, ended_at=one.ended_at or one.started_at) for one in bindings
    ]


def holders(
    roster: Roster,
    blocks: Mapping[int, Block],
    latest: Iterable[Binding],
    arrived: Mapping[str, Collection[Address]] = _NOBODY,
) -> list[Holder]:
    """Which VM has which addresses: those of its newest life, and those that the admin gave it. arrived: more addresses
    of running VMs, by VM name; a VM that is not in the roster is in good standing."""
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


@dataclass(frozen=True)
class Present:
    """The vifs of this dom0, as the daemon sees them, or the CLI without a daemon.

    bound: bindings of the vifs that exist. arriving: vifs that are not bound yet, with their VMs' names from xenstore.
    starting: ifindexes of vifs whose VM is known only to their hook yet.
    """

    bound: Collection[Binding] = ()
    arriving: Collection[tuple[Port, str]] = ()
    starting: Collection[int] = ()


def throttled(roster: Roster, blocked: Collection[int], unrecorded: Collection[int]) -> frozenset[int]:
    """The ids of the VMs that are throttled. unrecorded: VMs whose throttle could not be recorded."""
    slowed = {id_ for id_, entry in roster.entries.items() if entry.vm.state is State.THROTTLED}
    slowed |= set(unrecorded)
    return frozenset(
        vm_id
        for vm_id in slowed - set(blocked)
        if vm_id in roster.entries and roster.entries[vm_id].allowance.rates is not None
    )


def lines(
    roster: Roster, usage: Mapping[int, Counters], throttled: Collection[int], *, metered: bool
) -> tuple[Line, ...]:
    """What the kernel has to hold of the VMs' allowances. usage: on this host in each VM's period. throttled: ids of
    the VMs that are throttled. metered: whether our counters in the kernel count the usage; if not, it holds only the
    throttles of these VMs."""
    found: list[Line] = []
    for vm_id, entry in roster.entries.items():
        if vm_id in throttled:
            found.append(Line(vm_id, "slow", "total", None, 0, entry.period.start))
        if metered and entry.enforced and not quota.lifted(entry.vm, entry.period):
            for kind, limit in quota.limits(entry.allowance).items():
                if kind != "slow" or vm_id not in throttled:
                    found += _lines(entry, kind, limit, usage.get(vm_id, ZERO))
    return tuple(found)


def _lines(entry: Entry, kind: str, limit: int, here: Counters) -> list[Line]:
    elsewhere, vm_id, since = entry.elsewhere, entry.vm.id, entry.period.start
    of = {
        "total": (limit - sum(elsewhere), sum(here)),
        "in": (limit - elsewhere.in_bytes, here.in_bytes),
        "out": (limit - elsewhere.out_bytes, here.out_bytes),
    }
    counted = ("in", "out") if entry.allowance.count is Count.MAX else (entry.allowance.count.value,)
    return [Line(vm_id, kind, word, *of[word], since) for word in counted]


@dataclass(frozen=True)
class Hold:
    """What holds VMs, by their ids. blocked: those that are blocked. allow: what they may reach all the same.
    rates: to what those are held that are throttled past their allowance. aliased: for how many seconds others may
    still send to another MAC of a VM."""

    blocked: frozenset[int]
    allow: Exceptions
    rates: Mapping[int, Rates]
    aliased: Mapping[int, int]


def ports(present: Present, hold: Hold, ids: Mapping[str, int]) -> tuple[Port, ...]:
    """Every vif, sealed if its VM is blocked, with the rates of its VM. ids: of VMs, by name."""
    bound = [(Port(*one.key, one.interface, one.mac), one.vm_id) for one in present.bound]
    arriving = [(port, ids.get(name)) for port, name in present.arriving]
    # A vif that is not bound yet has no tripwire: whose it is may still change, and its usage is nobody's.
    return (
        *(_held(port, vm_id, hold) for port, vm_id in bound),
        *(_held(port, vm_id, hold)._replace(vm_id=None) for port, vm_id in arriving),
    )


def _held(port: Port, vm_id: int | None, hold: Hold) -> Port:
    if vm_id is None:
        return port
    rates = hold.rates.get(vm_id)
    return port._replace(
        vm_id=vm_id,
        sealed=vm_id in hold.blocked,
        allow=hold.allow.of(vm_id),
        throttle=None if rates is None else (vm_id, *rates),
        aliased=hold.aliased.get(vm_id, 0),
    )


def running(latest: Iterable[Binding], blocked: Container[int], boot_id: str) -> dict[int, int]:
    """The domids that blocked VMs had last in this boot -> VM id. A domain without vifs may still run, and may get a
    vif later; so a domid belongs to the VM that had it last."""
    owners: dict[int, int] = {}
    for binding in sorted(latest, key=lambda binding: binding.id):
        if binding.boot_id == boot_id:
            owners[binding.domid] = binding.vm_id
    return {domid: vm_id for domid, vm_id in owners.items() if vm_id in blocked}

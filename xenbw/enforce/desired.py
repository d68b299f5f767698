"""What must be blocked: a pure function of who holds which address and who is in good standing."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from xenbw.allow import Exceptions
from xenbw.config import Settings
from xenbw.judge.roster import Roster
from xenbw.model import Address, Binding, Block, Network, Rates, State
from xenbw.nft.port import Port

_NOBODY: Mapping[str, Collection[Address]] = MappingProxyType({})
_EVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Holder:
    """A VM and its addresses. live: of its running interfaces; given: by the admin, while it runs; known: all of them,
    from its last life on. since: when that life began, which decides between VMs that are down."""

    name: str
    blocked: bool
    live: frozenset[Address]
    given: frozenset[Address]
    known: frozenset[Address]
    since: datetime


@dataclass(frozen=True)
class Plan:
    """Which addresses are null-routed, and what the admin and the hook need to know beside it.

    null_routes: address -> name of the VM that owes it; there are to be no others.
    protected: addresses of blocked VMs that are never to be blocked -> that VM.
    withheld: addresses that a blocked VM runs with but another VM, in good standing, holds -> both names.
    shared: addresses that several VMs run with, blocked or not -> their names.
    held: addresses that running VMs in good standing hold.
    """

    null_routes: Mapping[Address, str]
    protected: Mapping[Address, str]
    withheld: Mapping[Address, tuple[str, str]]
    shared: Mapping[Address, tuple[str, ...]]
    held: frozenset[Address]


def is_protected(address: Address, protect: Collection[Network]) -> bool:
    """Whether an address is never to be blocked, whoever claims it."""
    return (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or any(address.version == network.version and address in network for network in protect)
    )


def plan(holders: Collection[Holder], protect: Collection[Network]) -> Plan:
    """The null routes for these holders.

    An address is blocked only while a blocked VM holds it and no VM in good standing does. Who runs with it on an
    interface holds it before whom the admin gave it to, and a running VM before one that is down; of those that are
    down, the last to run holds it. Of two with an equal claim, the one in good standing does.
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
    """The null routes that only `after` has, by VM. Those of addresses that `before` had to leave open are left out:
    that they were open was a problem of its own."""
    found: dict[str, list[str]] = {}
    routes = after.null_routes
    for address, name in sorted(routes.items(), key=lambda route: (route[0].version, int(route[0]))):
        spared = address in before.protected or address in before.withheld
        if before.null_routes.get(address) != name and not spared:
            found.setdefault(name, []).append(str(address))
    return found


def obstacles(plan: Plan) -> list[str]:
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


def exceptions(roster: Roster, settings: Settings) -> Exceptions:
    """What VMs may reach while they are blocked, by their ids."""
    own = {vm_id: entry.vm.allow for vm_id, entry in roster.entries.items()}
    return Exceptions(
        settings.enforce.exceptions,
        {vm_id: [str(network) for network in networks] for vm_id, networks in own.items() if networks is not None},
    )


def _by_name(allow: Exceptions, roster: Roster) -> Exceptions:
    return Exceptions(allow.common, {roster.entries[vm_id].vm.name: networks for vm_id, networks in allow.own.items()})


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


@dataclass(frozen=True)
class Present:
    """The vifs of this dom0, as the daemon sees them, or the CLI where no daemon runs.

    bound: the bindings of those that are there. arriving: those that are not bound yet, with the names of their VMs as
    xenstore has them. starting: ifindexes of those whose VM only their hook knows yet.
    """

    bound: Collection[Binding] = ()
    arriving: Collection[tuple[Port, str]] = ()
    starting: Collection[int] = ()


def throttled(roster: Roster, blocked: Collection[int], unrecorded: Collection[int]) -> dict[int, Rates]:
    """The rates of the VMs that are throttled, by their ids. A blocked VM needs none. unrecorded: VMs whose throttle
    could not be recorded."""
    found = {}
    for vm_id, entry in roster.entries.items():
        rates, slowed = entry.allowance.rates, entry.vm.state is State.THROTTLED or vm_id in unrecorded
        if slowed and rates is not None and vm_id not in blocked:
            found[vm_id] = rates
    return found


@dataclass(frozen=True)
class Hold:
    """What holds VMs, by their ids. blocked: those that are blocked. allow: what they may reach all the same.
    throttled: the rates of those that are throttled."""

    blocked: frozenset[int]
    allow: Exceptions
    throttled: Mapping[int, Rates]


def ports(present: Present, hold: Hold, ids: Mapping[str, int]) -> tuple[Port, ...]:
    """Every vif, sealed if its VM is blocked, throttled if its VM is. ids: of VMs, by name."""
    bound = [(Port(*one.key, one.interface, one.mac), one.vm_id) for one in present.bound]
    arriving = [(port, ids.get(name)) for port, name in present.arriving]
    return tuple(_held(port, vm_id, hold) for port, vm_id in (*bound, *arriving))


def _held(port: Port, vm_id: int | None, hold: Hold) -> Port:
    if vm_id is None:
        return port
    rates = hold.throttled.get(vm_id)
    return port._replace(
        sealed=vm_id in hold.blocked,
        allow=hold.allow.of(vm_id),
        throttle=None if rates is None else (vm_id, *rates),
    )


def running(latest: Iterable[Binding], blocked: Container[int], boot_id: str) -> dict[int, int]:
    """The domids of blocked VMs' newest lives in this boot -> the VM's id. A domain without any vif left may still run
    and be given another; so a domid is taken to be of the VM that had it last."""
    owners: dict[int, int] = {}
    for binding in sorted(latest, key=lambda binding: binding.id):
        if binding.boot_id == boot_id:
            owners[binding.domid] = binding.vm_id
    return {domid: vm_id for domid, vm_id in owners.items() if vm_id in blocked}

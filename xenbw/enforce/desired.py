"""What must be blocked: a pure function of who holds which address and who is in good standing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from xenbw.allow import Exceptions
from xenbw.blocks.wanted import Desired
from xenbw.model import Address, Network


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
    """desired, and what the admin and the hook need to know beside it.

    protected: addresses of blocked VMs that are never to be blocked -> that VM. withheld: addresses that a blocked VM
    runs with but another one, in good standing, holds -> both names. shared: addresses that several VMs run with,
    blocked or not -> their names. held: addresses that running VMs in good standing hold.
    """

    desired: Desired
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


def plan(holders: Collection[Holder], protect: Collection[Network], allow: Exceptions | None = None) -> Plan:
    """The null routes for these holders, with these exceptions by their names.

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
        Desired({address: name for address, name in routes.items() if address not in refused}, allow or Exceptions()),
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
    routes = after.desired.null_routes
    for address, name in sorted(routes.items(), key=lambda route: (route[0].version, int(route[0]))):
        spared = address in before.protected or address in before.withheld
        if before.desired.null_routes.get(address) != name and not spared:
            found.setdefault(name, []).append(str(address))
    return found

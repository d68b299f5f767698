"""What must be blocked: a pure function of who holds which address and who is in good standing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network

from xenbw.model import Address

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Holder:
    """A VM and its addresses. live: of a running interface, or given to it by the admin while it runs; known: of its
    last life. since: when that life began, which decides between two VMs that are both down."""

    name: str
    blocked: bool
    live: frozenset[Address]
    known: frozenset[Address]
    since: datetime


@dataclass(frozen=True)
class Desired:
    """The null routes that must exist, address -> name of the VM that owes them; nothing else may."""

    null_routes: Mapping[Address, str]


@dataclass(frozen=True)
class Plan:
    """desired, and what was left out: addresses never to be blocked, and those a VM in good standing holds."""

    desired: Desired
    protected: Mapping[Address, str]
    held: frozenset[Address]


def is_protected(address: Address, protect: Collection[Network]) -> bool:
    """Whether an address is never to be blocked, whoever claims it."""
    return (
        address.is_loopback
        or address.is_unspecified
        or address.is_multicast
        or any(address.version == network.version and address in network for network in protect)
    )


def plan(holders: Iterable[Holder], protect: Collection[Network]) -> Plan:
    """The null routes for these holders.

    An address is blocked only while a blocked VM holds it and no VM in good standing does. A running VM holds its
    addresses before one that is down; of those that are down, the last to run holds them.
    """
    owners: dict[Address, Holder] = {}
    running: set[Address] = set()
    # Of two that never ran, the one in good standing comes last and holds the address.
    for holder in sorted(holders, key=lambda holder: (holder.since, not holder.blocked)):
        for address in holder.live:
            # Of two running VMs that claim one address, the one in good standing decides.
            if address not in running or not holder.blocked:
                owners[address] = holder
            running.add(address)
        for address in holder.known - running:
            owners[address] = holder
    routes = {address: owner.name for address, owner in owners.items() if owner.blocked}
    refused = {address: name for address, name in routes.items() if is_protected(address, protect)}
    return Plan(
        Desired({address: name for address, name in routes.items() if address not in refused}),
        refused,
        frozenset(address for address, owner in owners.items() if not owner.blocked),
    )

"""The interface of all blocks: they take the wanted state, and return their changes and problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from xenbw.allow import Exceptions
from xenbw.model import Address
from xenbw.nft.port import Port


class Line(NamedTuple):
    """One line of a VM's allowance, which the kernel holds.

    kind: "trip": past the line traffic is refused; "slow": it is throttled. counted: "total", "in" or "out". limit: how
    many bytes of the VM's usage on this host may pass; None: the VM is past the line, whatever the kernel counted.
    used: that usage so far, of the period that began at `since`.
    """

    vm_id: int
    kind: str
    counted: str
    limit: int | None
    used: int
    since: datetime


@dataclass(frozen=True)
class Wanted:
    """Everything that blocks have to hold. What is not in here is released.

    null_routes: address -> name of the blocked VM that holds it.
    ports: all vifs of this dom0, each with whether it is sealed and which networks its seal lets through.
    shut: vifs that nothing may pass, whatever becomes of nft's rules: ifindex -> interface. A block gets only the vifs
    that the blocks before it could not shut.
    starting: ifindexes of vifs whose vif script is running; their drops and links are left to the hook.
    domids: running domains of blocked VMs: domid -> the VM's name.
    owners: the vifs that are bound in this boot: ifindex -> domid.
    allow: the networks that blocked VMs may still reach, by VM name.
    lines: what the kernel holds of VMs' allowances.
    method: by what addresses are null-routed, "iptables" or "nft" (blocks/method.py).
    """

    null_routes: Mapping[Address, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    shut: Mapping[int, str] = field(default_factory=dict)
    starting: frozenset[int] = frozenset()
    domids: Mapping[int, str] = field(default_factory=dict)
    owners: Mapping[int, int] = field(default_factory=dict)
    allow: Exceptions = field(default_factory=Exceptions)
    lines: tuple[Line, ...] = ()
    method: str = "iptables"


@dataclass(frozen=True)
class Outcome:
    """What a block did.

    changes: what the block had to change. problems: sentences for the admin.
    shut: ifindexes of vifs that nothing passes, whatever becomes of nft's rules. seals: whether on this host it can
    stop all traffic on the vifs of blocked VMs, so that their blocks need no null route. bridged: whether its null
    routes also hold on every bridge.
    """

    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    shut: frozenset[int] = frozenset()
    seals: bool = False
    bridged: bool = False


class Block(Protocol):
    """A way to hold VMs. It makes the kernel's state the wanted one, and decides nothing."""

    @property
    def name(self) -> str: ...

    def probe(self) -> str | None:
        """Why it cannot work on this host, or None."""

    def apply(self, wanted: Wanted) -> Outcome:
        """Make the kernel's state the wanted one. May raise XenbwError if it could do nothing."""

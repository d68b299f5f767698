"""The one shape of all blocks: the wanted state goes in, what was changed and what is wrong comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from xenbw.allow import Exceptions
from xenbw.model import Address
from xenbw.nft.chains import Port


@dataclass(frozen=True)
class Wanted:
    """All that blocks are to hold, and nothing else is to be held.

    null_routes: address -> name of the VM that owes it.
    ports: the vifs of this dom0, each with whether it is sealed and which networks its seal lets through.
    links: vifs whose links are to be down: ifindex -> interface.
    starting: ifindexes of vifs whose vif script is at work; their links are left to the hook.
    domids: running domains of blocked VMs -> the VM's name.
    owners: ifindex -> domid of the vifs that are bound in this boot.
    allow: what a blocked VM may reach all the same, by its name.
    """

    null_routes: Mapping[Address, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    links: Mapping[int, str] = field(default_factory=dict)
    starting: frozenset[int] = frozenset()
    domids: Mapping[int, str] = field(default_factory=dict)
    owners: Mapping[int, int] = field(default_factory=dict)
    allow: Exceptions = field(default_factory=Exceptions)


@dataclass(frozen=True)
class Outcome:
    """What a block did.

    changes: what it had to change. problems: what is wrong, each a sentence for the admin.
    shut: ifindexes of vifs that it shut. seals: whether this host lets it stop all traffic on the vifs of blocked VMs,
    so that the block needs no null route.
    """

    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    shut: frozenset[int] = frozenset()
    seals: bool = False


class Block(Protocol):
    """A way to hold VMs. It decides nothing: it makes the kernel's state what is wanted."""

    @property
    def name(self) -> str: ...

    def probe(self) -> str | None:
        """Why it cannot work on this host, or None."""

    def apply(self, wanted: Wanted) -> Outcome:
        """Make the kernel's state what is wanted. May raise XenbwError where nothing could be done."""

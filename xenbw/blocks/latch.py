"""The latch: domains of blocked VMs get no traffic on vifs that they are given while they run, hot-plugged ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from xenbw.blocks import groups, latch_text
from xenbw.blocks.block import Outcome, Wanted
from xenbw.errors import MeterError
from xenbw.nft.netlink import Chain
from xenbw.nft.nft import indexes
from xenbw.nft.tables import Tables
from xenbw.rundir.latched import Marks
from xenbw.vifs import nodes

_GROUP = 4  # bytes of a group's number
_DOMIDS = 0x7FF0  # DOMID_FIRST_RESERVED, xen/include/public/xen.h
# An element's key: as much of a name as must agree, padded, and the type of a card, likewise.
_KEY = re.compile(rb"vif([1-9][0-9]*)\.\0*" + re.escape((1).to_bytes(2, sys.byteorder)) + rb"\0*")
_LATE = "cards that blocked guests get while no daemon runs are sealed late"
_RENAMED = "cards with names of their own that blocked guests get while no daemon runs are sealed late"
_STUCK = (
    "nft does not let go of a latch, and a guest may be cut off: nft delete table bridge xenbw; so with inet and arp"
)
_FOREIGN = -1  # in place of a domid, for an element that is none of ours


class _Allowed(NamedTuple):
    """What is let through all the same: for all domains, but for those with their own."""

    common: tuple[str, ...]
    own: dict[int, tuple[str, ...]]


class _View(NamedTuple):
    """How the latch stands: by family its chains, those that there are; by family and set the domains that it holds; by
    family the interfaces whose names mean nothing."""

    chains: dict[tuple[str, str], Chain | None]
    held: dict[tuple[str, str], frozenset[int]]
    misnamed: dict[str, frozenset[int]]

    @property
    def exists(self) -> bool:
        return any(self.chains.values()) or any(self.held.values())

    def holds(self, wanted: frozenset[int], misnamed: frozenset[int]) -> bool:
        """Whether these domains are latched, on every way, and no others; nor interfaces that only have their names."""
        return (
            all(held == wanted for held in self.held.values())
            and all(known == misnamed for known in self.misnamed.values())
            and (not wanted or all(self.chains.values()))
        )


class Latch:
    """The latches on the domains of blocked VMs. run_dir: xenbw's folder under /run, where udev's marks are."""

    name = "latch"

    def __init__(self, tables: Tables, run_dir: str) -> None:
        self._tables, self._marks = tables, Marks(run_dir)
        self._families = {family: tables.of(number) for family, number in latch_text.FAMILIES.items()}
        self._laid: _View | None = None  # as it was after we last made it, allowing this
        self._allow = _Allowed((), {})
        self._generation: object = None
        self._said = ""  # nft's error at the last change

    def probe(self) -> str | None:
        """Why the kernel tells nothing of nft rules, or None."""
        try:
            self._look()
        except MeterError as error:
            return str(error)
        return None

    def apply(self, wanted: Wanted) -> Outcome:
        """Latch the wanted domains, and no others."""
        latched = frozenset(wanted.domids)
        own = {domid: wanted.allow.of(name) for domid, name in wanted.domids.items() if name in wanted.allow.own}
        problems = self._mark(latched)
        others = misnamed(latched, wanted.owners)
        try:
            view = self._stand(latched, others, _Allowed(tuple(wanted.allow.common), own))
        except MeterError as error:
            # Where the kernel tells nothing of rules, no latch holds a domain that is to be let go.
            return Outcome(problems=(f"{_LATE}: {error}",) if latched else ())
        if view.holds(latched, others):
            return Outcome(problems=problems)
        wrong = _STUCK if any(held - latched for held in view.held.values()) else f"{_LATE}: nft refuses the latch"
        return Outcome(problems=(f"{wrong} ({self._said})" if self._said else wrong,))

    def _mark(self, wanted: frozenset[int]) -> tuple[str, ...]:
        """Have udev's rule know the wanted domains; what is wrong with that."""
        try:
            groups.leave({latch_text.group(domid) for domid in self._marks.keep(wanted)})
        except OSError as error:
            return (f"{_RENAMED}: {error.filename or 'netlink'}: {error.strerror}",)
        return ()

    def _stand(self, wanted: frozenset[int], others: frozenset[int], allow: _Allowed) -> _View:
        """Make it what it should be; returns what it then is."""
        unchanged = (self._allow, self._generation) == (allow, self._tables.generation())
        if unchanged and self._laid is not None and self._laid.holds(wanted, others):
            return self._laid
        text = self._change(self._look(), wanted, others, allow)
        said = self._tables.apply(text) if text else None
        if said is not None:
            said = self._tables.apply(_anew(wanted, others, allow))
        self._said = said or ""
        self._generation, self._allow, view = self._tables.generation(), allow, self._look()
        self._laid = view if view.holds(wanted, others) else None
        return view

    def _change(self, view: _View, wanted: frozenset[int], others: frozenset[int], allow: _Allowed) -> str:
        if not wanted:
            return latch_text.remove() if view.exists else ""
        laid = self._laid.chains if self._laid is not None and self._allow == allow else {}
        first, *rest = view.held.values()
        somewhere, everywhere = first.union(*rest), first.intersection(*rest)
        if not any(laid.values()) or view.chains != laid or _FOREIGN in somewhere:
            return _anew(wanted, others, allow)
        known = frozenset[int]().union(*view.misnamed.values())
        named = latch_text.excuse(sorted(others)) + latch_text.accuse(sorted(known - others))
        return named + latch_text.fasten(sorted(wanted - everywhere)) + latch_text.loosen(sorted(somewhere - wanted))

    def _look(self) -> _View:
        return _View(
            {
                (family, name): chains.get(name)
                for family, table in self._families.items()
                for chains in [table.chains()]
                for name in (latch_text.CHAINS[family], latch_text.OWN)
            },
            {
                (family, name): domids(table.elements(name))
                for family, table in self._families.items()
                for name in (latch_text.SET, latch_text.GROUPS)
            },
            {family: indexes(table.elements(latch_text.MISNAMED)) for family, table in self._families.items()},
        )


def _anew(wanted: frozenset[int], others: frozenset[int], allow: _Allowed) -> str:
    """Text that makes it what it should be, whatever is there."""
    if not wanted:
        return latch_text.remove()
    own = "".join(latch_text.allow(domid, networks) for domid, networks in sorted(allow.own.items()))
    named = latch_text.excuse(sorted(others))
    return latch_text.remove() + latch_text.foundation(allow.common) + own + named + latch_text.fasten(sorted(wanted))


def misnamed(latched: Collection[int], bound: Mapping[int, int]) -> frozenset[int]:
    """The ifindexes of interfaces that are called after latched domains and belong to other domains, which are not
    latched. The owner is told by the interface's xenbus node, or, where it has none, by `bound`: ifindex -> domid."""
    called = nodes.called_after(set(latched)) if latched else []
    owners = {index: nodes.owner(interface) or bound.get(index) for index, interface, _ in called}
    return frozenset(index for index, domid in owners.items() if domid is not None and domid not in latched)


def domids(elements: Iterable[bytes]) -> frozenset[int]:
    """The domains in one of the sets, by its elements' keys; -1 stands for whatever is none of ours."""
    return frozenset(_domid(key) for key in elements)


def _domid(key: bytes) -> int:
    if len(key) == _GROUP:
        domid = int.from_bytes(key, sys.byteorder) - latch_text.FIRST_GROUP
        return domid if 0 < domid < _DOMIDS else _FOREIGN
    found = _KEY.fullmatch(key)
    return int(found[1]) if found else _FOREIGN

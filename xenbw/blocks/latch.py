"""The latch: drop traffic from vifs that are hot-plugged into a domain of a blocked VM later."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from xenbw.blocks import groups, latch_text
from xenbw.blocks.block import Outcome, Wanted
from xenbw.errors import MeterError
from xenbw.nft.nft import indexes
from xenbw.nft.objects import Chain
from xenbw.nft.tables import Tables
from xenbw.rundir.latched import Marks
from xenbw.vifs import nodes

_GROUP = 4  # length of a group's number, in bytes
_DOMIDS = 0x7FF0  # DOMID_FIRST_RESERVED, xen/include/public/xen.h
# An element's key: the start of the name, padded with zeros, and the interface's type (1 is Ethernet), padded as well.
_KEY = re.compile(rb"vif([1-9][0-9]*)\.\0*" + re.escape((1).to_bytes(2, sys.byteorder)) + rb"\0*")
_LATE = "without xenbwd, hot-plugged vifs of blocked VMs pass traffic until the hook runs"
_RENAMED = "without xenbwd, hot-plugged vifs of blocked VMs that have a vifname= pass traffic until the hook runs"
_STUCK = (
    "nft does not delete a latch, and a guest may be cut off: nft delete table bridge xenbw; the same for inet and arp"
)
_FOREIGN = -1  # in place of a domid, for an element that xenbw did not write


class _Allowed(NamedTuple):
    """The networks that latched domains may reach. own: by domid, for domains with exceptions of their own; common: for
    all others."""

    common: tuple[str, ...]
    own: dict[int, tuple[str, ...]]


class _View(NamedTuple):
    """The latch in the kernel. chains: by family and name, None if missing. held: the domids in each family's sets.
    misnamed: by family, the ifindexes of interfaces whose names it ignores."""

    chains: dict[tuple[str, str], Chain | None]
    held: dict[tuple[str, str], frozenset[int]]
    misnamed: dict[str, frozenset[int]]

    @property
    def exists(self) -> bool:
        return any(self.chains.values()) or any(self.held.values())

    def holds(self, wanted: frozenset[int], misnamed: frozenset[int]) -> bool:
        """Whether exactly these domains are latched, in every family and set, without these misnamed interfaces."""
        return (
            all(held == wanted for held in self.held.values())
            and all(known == misnamed for known in self.misnamed.values())
            and (not wanted or all(self.chains.values()))
        )


class Latch:
    """The latches on domains of blocked VMs. run_dir: xenbw's folder under /run, where the marks for udev are."""

    name = "latch"

    def __init__(self, tables: Tables, run_dir: str) -> None:
        self._tables, self._marks = tables, Marks(run_dir)
        self._families = {family: tables.of(number) for family, number in latch_text.FAMILIES.items()}
        self._laid: _View | None = None  # the latch as it was after our last change, made for `_allow`
        self._allow = _Allowed((), {})
        self._generation: object = None
        self._error = ""  # nft's error at the last change

    def probe(self) -> str | None:
        """Why nft rules cannot be read, or None."""
        try:
            self._look()
        except MeterError as error:
            return str(error)
        return None

    def apply(self, wanted: Wanted) -> Outcome:
        """Latch exactly the wanted domains."""
        latched = frozenset(wanted.domids)
        own = {domid: wanted.allow.of(name) for domid, name in wanted.domids.items() if name in wanted.allow.own}
        problems = self._mark(latched)
        others = misnamed(latched, wanted.owners)
        try:
            view = self._make(latched, others, _Allowed(tuple(wanted.allow.common), own))
        except MeterError as error:
            # A kernel whose nft rules cannot be read has no latch, so none has to be removed.
            return Outcome(problems=(f"{_LATE}: {error}",) if latched else ())
        if view.holds(latched, others):
            return Outcome(problems=problems)
        problem = _STUCK if any(held - latched for held in view.held.values()) else f"{_LATE}: nft refuses the latch"
        return Outcome(problems=(f"{problem} ({self._error})" if self._error else problem,))

    def _mark(self, wanted: frozenset[int]) -> tuple[str, ...]:
        """Keep the latch marks that udev's rule reads. Returns problems."""
        try:
            groups.leave({latch_text.group(domid) for domid in self._marks.keep(wanted)})
        except OSError as error:
            return (f"{_RENAMED}: {error.filename or 'netlink'}: {error.strerror}",)
        return ()

    def _make(self, wanted: frozenset[int], others: frozenset[int], allow: _Allowed) -> _View:
        """Make the latch the wanted one; returns it as it is then."""
        unchanged = (self._allow, self._generation) == (allow, self._tables.generation())
        if unchanged and self._laid is not None and self._laid.holds(wanted, others):
            return self._laid
        text = self._change(self._look(), wanted, others, allow)
        error = self._tables.apply(text) if text else None
        if error is not None:
            error = self._tables.apply(_anew(wanted, others, allow))
        self._error = error or ""
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
        named = latch_text.ignore_names(sorted(others)) + latch_text.heed_names(sorted(known - others))
        return named + latch_text.latch(sorted(wanted - everywhere)) + latch_text.unlatch(sorted(somewhere - wanted))

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
    """Text that makes the wanted latch from nothing, whatever is there."""
    if not wanted:
        return latch_text.remove()
    own = "".join(latch_text.allow(domid, networks) for domid, networks in sorted(allow.own.items()))
    named = latch_text.ignore_names(sorted(others))
    return latch_text.remove() + latch_text.foundation(allow.common) + own + named + latch_text.latch(sorted(wanted))


def misnamed(latched: Collection[int], bound: Mapping[int, int]) -> frozenset[int]:
    """The ifindexes of interfaces that have a latched domain's name but belong to a domain that is not latched. The
    owner is known from the interface's xenbus node, or without one from `bound`: ifindex -> domid."""
    called = nodes.called_after(set(latched)) if latched else []
    owners = {index: nodes.owner(interface) or bound.get(index) for index, interface, _ in called}
    return frozenset(index for index, domid in owners.items() if domid is not None and domid not in latched)


def domids(elements: Iterable[bytes]) -> frozenset[int]:
    """The domids in one of the sets, from its elements' keys; -1 for an element that xenbw did not write."""
    return frozenset(_domid(key) for key in elements)


def _domid(key: bytes) -> int:
    if len(key) == _GROUP:
        domid = int.from_bytes(key, sys.byteorder) - latch_text.FIRST_GROUP
        return domid if 0 < domid < _DOMIDS else _FOREIGN
    found = _KEY.fullmatch(key)
    return int(found[1]) if found else _FOREIGN

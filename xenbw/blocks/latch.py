"""Which domains are latched: what the ledger says of who is blocked, made so in the kernel."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Container, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from xenbw.allow import Exceptions
from xenbw.blocks import groups, latch_text
from xenbw.errors import MeterError
from xenbw.model import Binding
from xenbw.nft.chains import Apply
from xenbw.nft.netlink import Chain, Table, hand_to_nft
from xenbw.nft.nft import TABLE, indexes
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


class Latches:
    """The latches of this boot's blocked domains."""

    def __init__(self, apply: Apply, boot_id: str, run_dir: str) -> None:
        self._apply, self._boot_id, self._marks = apply, boot_id, Marks(run_dir)
        self._tables = {family: Table(TABLE, number) for family, number in latch_text.FAMILIES.items()}
        self._laid: _View | None = None  # as it was after we last made it, allowing this
        self._allow = _Allowed((), {})
        self._generation = -1
        self._said = ""  # by nft, against the last change

    def keep(
        self, latest: Iterable[Binding], blocked: Container[int], starting: Mapping[int, int], allow: Exceptions
    ) -> str | None:
        """Latch the domains of blocked VMs, and no others. What is wrong, or None. latest: the bindings of each VM's
        newest life; starting: domids of blocked VMs that have no binding yet, and whose they are; allow: by VM's id."""
        latest = list(latest)
        owners = {**running(latest, blocked, self._boot_id), **starting}
        own = {domid: allow.of(vm_id) for domid, vm_id in owners.items() if vm_id in allow.own}
        wanted = frozenset(owners)
        unmarked, others = self._mark(wanted), misnamed(latest, wanted, self._boot_id)
        try:
            view = self._stand(wanted, others, _Allowed(tuple(allow.common), own))
        except MeterError as error:
            # Where the kernel tells nothing of rules, it holds nobody who is to be let go.
            return f"{_LATE}: {error}" if wanted else None
        if view.holds(wanted, others):
            return unmarked
        wrong = _STUCK if any(held - wanted for held in view.held.values()) else f"{_LATE}: nft refuses the latch"
        return f"{wrong} ({self._said})" if self._said else wrong

    def _mark(self, wanted: frozenset[int]) -> str | None:
        try:
            groups.leave({latch_text.group(domid) for domid in self._marks.keep(wanted)})
        except OSError as error:
            return f"{_RENAMED}: {error.filename or 'netlink'}: {error.strerror}"
        return None

    def forget(self) -> None:
        """Look again in any case: somebody changed the rules. Their generation is counted before they show."""
        self._generation = -1

    def _stand(self, wanted: frozenset[int], others: frozenset[int], allow: _Allowed) -> _View:
        """Make it what it should be; returns what it then is."""
        unchanged = (self._allow, self._generation) == (allow, self._read_generation())
        if unchanged and self._laid is not None and self._laid.holds(wanted, others):
            return self._laid
        text = self._change(self._look(), wanted, others, allow)
        said = self._apply(text) if text else None
        if said is not None:
            said = self._apply(_anew(wanted, others, allow))
        self._said = said or ""
        self._generation, self._allow, view = self._read_generation(), allow, self._look()
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
                for family, table in self._tables.items()
                for chains in [table.chains()]
                for name in (latch_text.CHAINS[family], latch_text.OWN)
            },
            {
                (family, name): domids(table.elements(name))
                for family, table in self._tables.items()
                for name in (latch_text.SET, latch_text.GROUPS)
            },
            {family: indexes(table.elements(latch_text.MISNAMED)) for family, table in self._tables.items()},
        )

    def _read_generation(self) -> int:
        return next(iter(self._tables.values())).generation()

    def close(self) -> None:
        for table in self._tables.values():
            table.close()


def keep(
    run_dir: Path,
    boot_id: str,
    latest: Iterable[Binding],
    blocked: Container[int],
    starting: Mapping[int, int],
    allow: Exceptions,
) -> str | None:
    """The same once, where no daemon does."""
    once = Latches(hand_to_nft, boot_id, str(run_dir))
    try:
        return once.keep(latest, blocked, starting, allow)
    finally:
        once.close()


def _anew(wanted: frozenset[int], others: frozenset[int], allow: _Allowed) -> str:
    """Text that makes it what it should be, whatever is there."""
    if not wanted:
        return latch_text.remove()
    own = "".join(latch_text.allow(domid, networks) for domid, networks in sorted(allow.own.items()))
    named = latch_text.excuse(sorted(others))
    return latch_text.remove() + latch_text.foundation(allow.common) + own + named + latch_text.fasten(sorted(wanted))


def running(latest: Iterable[Binding], blocked: Container[int], boot_id: str) -> dict[int, int]:
    """The domids of these VMs' newest lives in this boot, and whose they are. One without any interface left may run,
    and get another; so whoever was the last to have a domid is taken to have it still."""
    owners: dict[int, int] = {}
    for binding in sorted(latest, key=lambda binding: binding.id):
        if binding.boot_id == boot_id:
            owners[binding.domid] = binding.vm_id
    return {domid: vm_id for domid, vm_id in owners.items() if vm_id in blocked}


def misnamed(latest: Iterable[Binding], latched: Collection[int], boot_id: str) -> frozenset[int]:
    """The ifindexes of interfaces that are called after latched domains and belong to others, which are not: by their
    nodes, or by their bindings where they have none."""
    called = nodes.called_after(set(latched)) if latched else []
    if not called:
        return frozenset()
    bound = {one.ifindex: one.domid for one in latest if one.boot_id == boot_id and one.ended_at is None}
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

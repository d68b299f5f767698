"""Which domains are latched: what the ledger says of who is blocked, made so in the kernel."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import NamedTuple

from xenbw.model import Binding
from xenbw.net import latch
from xenbw.net.chains import Apply
from xenbw.net.counters import MeterError
from xenbw.net.netfilter import Chain, Table, hand_to_nft
from xenbw.net.nft import TABLE


class _View(NamedTuple):
    """How the latch stands, by family: its chain, if there is one, and the domains that it holds."""

    chains: dict[str, Chain | None]
    held: dict[str, frozenset[int]]

    def holds(self, wanted: frozenset[int]) -> bool:
        """Whether these domains are latched, on every way, and no others."""
        return all(held == wanted for held in self.held.values()) and (not wanted or all(self.chains.values()))


class Latches:
    """The latches of this boot's blocked domains."""

    def __init__(self, apply: Apply, boot_id: str) -> None:
        self._apply, self._boot_id = apply, boot_id
        self._tables = {family: Table(TABLE, number) for family, number in latch.FAMILIES.items()}
        self._laid: _View | None = None  # as it was after we last made it, allowing this
        self._allow: tuple[str, ...] = ()
        self._generation = -1

    def keep(self, latest: Iterable[Binding], blocked: Container[int], allow: tuple[str, ...]) -> str | None:
        """Latch the domains of blocked VMs, and no others; why not, or None. latest: the bindings of each VM's newest
        life."""
        wanted = running(latest, blocked, self._boot_id)
        try:
            return None if self._stand(wanted, allow) else "nft refuses (it needs linux 5.6)"
        except MeterError as error:
            return str(error)

    def _stand(self, wanted: frozenset[int], allow: tuple[str, ...]) -> bool:
        """Whether all stands as it should, after making it so."""
        unchanged = (self._allow, self._generation) == (allow, self._read_generation())
        if unchanged and self._laid is not None and self._laid.holds(wanted):
            return True
        view = self._look()
        if not wanted:
            text = latch.remove() if any(view.chains.values()) else ""
        else:
            text = "" if self._founded(view, allow) else latch.foundation(allow)
            text += _change(view, wanted)
        done = not text or self._apply(text)
        self._generation, self._allow, self._laid = self._read_generation(), allow, self._look()
        if not (done and self._laid.holds(wanted)):
            self._laid = None
        return self._laid is not None

    def _founded(self, view: _View, allow: tuple[str, ...]) -> bool:
        """Whether the chains are there as they were when we made them."""
        laid = self._laid.chains if self._laid is not None else {}
        return all(laid.values()) and (view.chains, allow) == (laid, self._allow)

    def _look(self) -> _View:
        return _View(
            {family: table.chains().get(latch.CHAIN) for family, table in self._tables.items()},
            {family: latch.domids(table.elements(latch.SET)) for family, table in self._tables.items()},
        )

    def _read_generation(self) -> int:
        return next(iter(self._tables.values())).generation()

    def close(self) -> None:
        for table in self._tables.values():
            table.close()


def keep(boot_id: str, latest: Iterable[Binding], blocked: Container[int], allow: tuple[str, ...]) -> str | None:
    """The same once, where no daemon does."""
    once = Latches(hand_to_nft, boot_id)
    try:
        return once.keep(latest, blocked, allow)
    finally:
        once.close()


def _change(view: _View, wanted: frozenset[int]) -> str:
    first, *others = view.held.values()
    return latch.fasten(sorted(wanted - first.intersection(*others))) + latch.loosen(
        sorted(first.union(*others) - wanted)
    )


def running(latest: Iterable[Binding], blocked: Container[int], boot_id: str) -> frozenset[int]:
    """The domids of these VMs' newest lives in this boot. One without any interface left may run, and get another; so
    whoever was the last to have a domid is taken to have it still."""
    owners: dict[int, int] = {}
    for binding in sorted(latest, key=lambda binding: binding.id):
        if binding.boot_id == boot_id:
            owners[binding.domid] = binding.vm_id
    return frozenset(domid for domid, vm_id in owners.items() if vm_id in blocked)

"""The meter that is exact to the last byte: our own nft counters on each vif."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache

from xenbw.meters.counters import KernelMeter, Meter, Metered
from xenbw.model import ZERO, Amounts, Binding, Counters, Life, Reading
from xenbw.nft import nft
from xenbw.nft.chains import Chains
from xenbw.nft.netlink import Table
from xenbw.nft.quotas import Quotas

# How often, and after how many seconds, a first reading is repeated as long as frames pass during it.
_LOOKS, _PAUSE = 25, 0.002


class NftMeter(Meter):
    """Our own counters on each vif, read with the kernel's, which bridge a loss of ours. Ours outlive the vif: `last`
    reads bytes that the kernel's counters have lost."""

    name = "nft"
    own = True

    def __init__(self, table: Table, chains: Chains, quotas: Quotas, kernel: KernelMeter) -> None:
        self._table, self._chains, self._quotas, self._kernel = table, chains, quotas, kernel

    def probe(self) -> str | None:
        return self._chains.probe()

    def read(self, wanted: Iterable[Metered]) -> dict[int, Reading]:
        wanted = list(wanted)
        counted = self._quotas.around(self._table.counters)
        kernel, passed = self._kernel.read(wanted), self._kernel.packets
        first = {nft.key(*one.key): one for one in wanted if self._first(one)}
        self._chains.fresh -= first.keys()
        first = {key: one for key, one in first.items() if _amounts(counted, key) is not None}
        found = _readings(wanted, counted, kernel)
        for _ in range(_LOOKS):
            if not first:
                break
            # This reading sets the difference between the kernel's counters and ours, and traffic between the two would
            # be charged twice: try to take both without any.
            again = self._table.counters()
            first = {key: one for key, one in first.items() if _amounts(again, key) != _amounts(counted, key)}
            if first:
                time.sleep(_PAUSE)
                self._quotas.forget()
                counted, kernel = self._table.counters(), self._kernel.read(first.values())
                found |= _readings(first.values(), counted, kernel)
        self.packets = {one.binding_id: self._packets(one, passed) for one in wanted if one.binding_id in found}
        return found

    def glance(self, wanted: Collection[Metered]) -> dict[int, Reading]:
        # A first reading needs the care that `read` takes.
        keys = {one.binding_id: nft.key(*one.key) for one in wanted if not self._first(one)}
        generation = self._table.generation()
        counted = self._table.counters([name for key in keys.values() for name in _names(key)])
        kernel = self._kernel.read(wanted)
        # The counters are read one after the other. If they were lost meanwhile, those that are there still would look
        # like new ones, with all that they ever counted.
        if self._table.generation() != generation:
            return {}
        # The usage that is known now is no longer of the moment of their readings.
        self._quotas.forget()
        found = _readings([one for one in wanted if one.binding_id in keys], counted, kernel)
        return {id_: reading for id_, reading in found.items() if reading.own is not None}

    def _first(self, one: Metered) -> bool:
        """Whether this reading of a vif's counters is the first: they are new, or counted before the vif was bound."""
        return one.mark.own is None or nft.key(*one.key) in self._chains.fresh

    def _packets(self, one: Metered, passed: Mapping[int, Counters]) -> Counters:
        """The packets of one vif. passed: by the kernel's counters, which have also what tc drops of a guest's, and
        lack what is refused on the way to it."""
        counted, key = self._table.packets, nft.key(*one.key)
        seen = passed.get(one.binding_id, ZERO)
        into = counted.get(f"{key}-in")
        if into is None:
            return seen
        return Counters(into + counted.get(f"{key}-refused-in", 0), seen.out_bytes)

    def last(self, wanted: Iterable[Metered]) -> dict[int, Reading]:
        counted = self._table.counters()
        found = {one.binding_id: _amounts(counted, nft.key(*one.key)) for one in wanted}
        return {id_: Reading(None, own) for id_, own in found.items() if own is not None}

    def lives(self) -> set[Life]:
        lives = (nft.life_of(name.removesuffix("-in")) for name in self._table.counters() if name.endswith("-in"))
        return {Life(*life) for life in lives if life is not None}

    def counted(self, lives: Collection[Life]) -> dict[Life, Amounts]:
        counted = self._table.counters()
        found = {life: _amounts(counted, nft.key(*life)) for life in lives}
        return {life: amounts for life, amounts in found.items() if amounts is not None}


def uncredited(bindings: Iterable[Binding], counted: Mapping[str, int]) -> dict[int, Counters]:
    """The usage that our counters have and the ledger has not yet, by VM. counted: counter's name -> bytes."""
    found: dict[int, Counters] = {}
    for one in bindings:
        now, then = _amounts(counted, nft.key(*one.key)), one.mark.own
        grown = now.since(then) if now is not None and then is not None else None
        if grown is not None:
            found[one.vm_id] = found.get(one.vm_id, ZERO).plus(grown.usage)
    return found


def readings(tallies: Mapping[str, tuple[int, int]], key: str) -> tuple[Amounts | None, Amounts | None]:
    """The bytes and the packets that our counters of one vif have; None without counters. tallies: counter's name ->
    (bytes, packets). The fields of the packets are named as those of the bytes."""
    if f"{key}-in" not in tallies:
        return None, None
    sizes, packets = zip(*(tallies.get(name, (0, 0)) for name in _names(key)), strict=True)
    return Amounts(*sizes), Amounts(*packets)


def _readings(
    wanted: Iterable[Metered], counted: Mapping[str, int], kernel: Mapping[int, Reading]
) -> dict[int, Reading]:
    found = {}
    for one in wanted:
        own, seen = _amounts(counted, nft.key(*one.key)), kernel.get(one.binding_id)
        if own is not None or seen is not None:
            found[one.binding_id] = Reading(seen.kernel if seen else None, own)
    return found


@lru_cache(maxsize=1 << 13)
def _names(key: str) -> tuple[str, ...]:
    """The names of one vif's counters, in the order of Amounts. They are looked up each second, for each vif."""
    return tuple(f"{key}-{what}" for what in nft.WHAT)


def _amounts(counted: Mapping[str, int], key: str) -> Amounts | None:
    """Our counters of one vif; a missing counter counted nothing."""
    names = _names(key)
    return Amounts(*[counted.get(name, 0) for name in names]) if names[0] in counted else None

"""Our chains on guests' interfaces: put there, kept whole and taken away again. What they say is the nft meter's."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from xenbw.nft import nft
from xenbw.nft.netlink import Chain
from xenbw.nft.tables import Tables


class Port(NamedTuple):
    """A guest's interface: which life of which vif, what it is called now, and the MAC that Xen gave it.

    allow: addresses and networks that its seal, if it has one, is open for.
    """

    domid: int
    devid: int
    ifindex: int
    interface: str
    mac: str | None = None
    sealed: bool = False
    allow: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return nft.key(self.domid, self.devid, self.ifindex)


class Chains:
    """The chains of the vifs: they carry our counters, and the seal.

    usable: whether the kernel has such chains, by the last probe; assumed until one was made.
    fresh: keys of those whose counters began just now.
    stuck: nft's error when chains or counters were last taken away; "" where it took them away.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables, self._apply, self._table = tables, tables.apply, tables.of()
        self._failed: dict[str, str] = {}  # interface -> why it has no chains
        self.usable = True
        self._allowed: dict[str, tuple[str, ...]] = {}  # what their chains say
        self._known: dict[str, tuple[int, ...]] = {}  # rules as first seen: what came before that is not noticed
        self._seen: View | None = None
        self._mark: object = None  # the rules' generation and the interfaces, just before that look
        self.fresh: set[str] = set()
        self.stuck = ""

    def probe(self) -> str | None:
        """Why chains cannot be had on this host, or None. Tries them on the loopback interface."""
        trial = Port(0, 0, 1, "lo")
        said = self._apply(nft.foundation() + nft.cover(*trial[:5])) or self._apply(nft.uncover(trial.key))
        self.usable = said is None
        return said and f"nft refuses netdev chains with ingress and egress hooks (they need linux 5.16): {said}"

    def look(self) -> View:
        """How things stand: as at the last look, if neither a rule nor an interface has changed since. Raises
        MeterError."""
        generation, interfaces = self._tables.generation(), socket.if_nameindex()
        if self._seen is None or self._mark != (generation, interfaces) or self._seen.interfaces != interfaces:
            self._seen, self._mark = self._look(), (generation, interfaces)
        return self._seen

    def _look(self) -> View:
        # A hook may add to it meanwhile, all at once: what must be there where something else is, is looked for later.
        counters, sealed = frozenset(self._table.counters()), nft.indexes(self._table.elements("sealed"))
        maps = {what: nft.mapped(self._table.objects(what)) for what in nft.WHAT}
        chains = self._table.chains()
        self._known = {name: self._known.get(name, chain.rules) for name, chain in chains.items()}
        changed = frozenset(name for name, chain in chains.items() if self._known[name] != chain.rules)
        return View(chains, counters, sealed, maps, changed, socket.if_nameindex())

    def broken(self, ports: Iterable[Port], view: View) -> list[Port]:
        """Those whose counters are there while something passes them by: a chain is gone, is another than it was, leads
        to no counter, or is bound to no interface of that name (linux 6.18 lets go of one that is renamed)."""
        whole = view.founded
        return [port for port in ports if view.counts(port) and not (whole and view.bound(port))]

    def keep(self, ports: Collection[Port], view: View) -> None:
        """Make the chains of these interfaces what they should be."""
        wrong = [port for port in ports if not self._right(port, view)]
        elsewhere = {name for _, name in view.interfaces} - {port.interface for port in ports}
        self._failed = {name: why for name, why in self._failed.items() if name in elsewhere}
        if not wrong and view.founded:
            return
        able = [port for port in wrong if nft.can_name(port.interface)]
        # Laying the foundation anew makes the kernel wait for every packet under way, and hooks wait for that.
        base = "" if view.founded else nft.foundation()
        text = view.text(able)
        # What all share may have gone since the look.
        laid = self._apply(base + text) is None or (not base and self._apply(nft.foundation() + text) is None)
        # One that vanished meanwhile spoils the batch of all.
        said = {} if laid else {port: self._apply(base + view.text([port])) for port in able}
        able = [port for port in able if said.get(port) is None]
        if base and (laid or able):
            # What was laid anew is what is known from now on, and not what somebody makes of it before the next look.
            self._known.clear()
            self._look()
        self._allowed |= {port.key: port.allow for port in able}
        self.fresh |= {port.key for port in able if not view.counts(port)}
        unable = [port for port in wrong if port not in able]
        self._failed |= {
            port.interface: f"nft refuses its chains: {said[port]}" if port in said else "nft cannot spell its name"
            for port in unable
        }
        # Counters that nothing reaches would pass for an interface that stands still.
        self.release([port.key for port in unable if view.counts(port)])

    def problems(self, ports: Iterable[Port]) -> list[str]:
        """Which of these interfaces have no chains although they should, and why."""
        failed = sorted(self._failed.keys() & {port.interface for port in ports})
        return [f"{one}: neither sealed nor metered to its last byte: {self._failed[one]}" for one in failed]

    def restart(self, ports: Collection[Port], view: View) -> None:
        """Take away the counters of interfaces that something passed by; whoever is sealed stays so meanwhile."""
        text = "".join(nft.uncount(port.key, port.ifindex) for port in ports)
        self._take_away(view.strays(ports) + text, nft.foundation() + text)
        for port in ports:
            self.fresh.discard(port.key)

    def release(self, keys: Collection[str]) -> None:
        """Take away chains and counters of interfaces that are gone and accounted for."""
        if keys:
            gone = {life[2] for life in map(nft.life_of, keys) if life is not None}
            macs = [(index, mac) for index, mac in nft.own(self._table.elements("own")) if index in gone]
            text = "".join([*map(nft.uncover, keys), *(nft.disown(index, mac) for index, mac in macs)])
            self._take_away(text, nft.foundation() + text)
            for name in keys:
                self._allowed.pop(name, None)
                self.fresh.discard(name)

    def _take_away(self, text: str, founded: str) -> None:
        """Hand nft the text, or the one that lays the foundation first, since what all share may have gone."""
        said = self._apply(text)
        if said is not None:
            said = self._apply(founded)
        self.stuck = said or ""

    def _right(self, port: Port, view: View) -> bool:
        """Whether an interface's chains are on it and say what they should."""
        if not view.bound(port) or view.seals(port) is not port.sealed:
            return False
        if port.sealed and port.allow:
            return view.allows(port) and self._allowed.get(port.key) == port.allow
        return not view.allows(port)


@dataclass(frozen=True)
class View:
    """The table as it was at one look: its chains, its counters' names, the interfaces that are sealed, where the maps
    lead (map -> ifindex -> counter), the chains whose rules are others than they were, and (ifindex, name) of each
    interface that was there after all that."""

    chains: Mapping[str, Chain]
    counters: frozenset[str]
    sealed: frozenset[int]
    maps: Mapping[str, Mapping[int, str]]
    changed: frozenset[str]
    interfaces: list[tuple[int, str]]

    def present(self, ports: Iterable[Port]) -> list[Port]:
        """Those whose interfaces were there. One that went away has lost nothing: its counters are read at its end."""
        there = {ifindex for ifindex, _ in self.interfaces}
        return [port for port in ports if port.ifindex in there]

    @property
    def founded(self) -> bool:
        """Whether what all interfaces share is whole."""
        return all(self._whole(name, "", len(rules)) for name, rules in nft.SHARED.items())

    def bound(self, port: Port) -> bool:
        """Whether the interface's chains are on it, and what passes them comes to its counters."""
        key, index = port.key, port.ifindex
        return all(self._whole(f"{key}-{way}", port.interface, 1) for way in nft.WAYS) and all(
            self.maps[what].get(index) == f"{key}-{what}" for what in (nft.WHAT if index in self.sealed else nft.PASSED)
        )

    def _whole(self, name: str, device: str, rules: int) -> bool:
        chain = self.chains.get(name)
        return chain is not None and name not in self.changed and (chain.device, len(chain.rules)) == (device, rules)

    def counts(self, port: Port) -> bool:
        """Whether there are counters for the interface."""
        return f"{port.key}-in" in self.counters

    def seals(self, port: Port) -> bool:
        """Whether nothing passes the interface."""
        return port.ifindex in self.sealed

    def allows(self, port: Port) -> bool:
        """Whether something passes it all the same."""
        return f"{port.key}-allowed-in" in self.chains

    def strays(self, ports: Iterable[Port]) -> str:
        """What takes these out of maps where they lead to others' counters: nft adds no element where another is."""
        return "".join(
            nft.stray(what, port.ifindex)
            for port in ports
            for what in nft.WHAT
            if self.maps[what].get(port.ifindex, f"{port.key}-{what}") != f"{port.key}-{what}"
        )

    def text(self, ports: Collection[Port]) -> str:
        """What makes the chains of these interfaces right. Those that are bound elsewhere, as after a rename, are made
        anew: nft would leave their device as it is."""
        parts = []
        for port in ports:
            if any(name in self.chains and self.chains[name].device != port.interface for name in _names(port)):
                parts.append(nft.unchain(port.key))
            if not (self.bound(port) and self.counts(port)):
                parts.append(nft.cover(*port[:5]))
            if port.sealed and port.allow:
                parts.append(nft.allow(port.key, port.ifindex, port.allow))
            elif self.allows(port):
                parts.append(nft.disallow(port.key, port.ifindex))
        parts.append(nft.seal([(port.key, port.ifindex) for port in ports if port.sealed]))
        parts.append(nft.unseal([port.ifindex for port in ports if not port.sealed]))
        return "".join(parts)


def _names(port: Port) -> list[str]:
    return [f"{port.key}-{way}" for way in nft.WAYS]

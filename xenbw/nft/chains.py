"""The nft chains on vifs: made, kept whole and removed here. nft.py has the text of their rules."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from xenbw.nft import nft
from xenbw.nft.objects import Chain
from xenbw.nft.port import Port
from xenbw.nft.tables import Tables

# Seconds: a vif may be known so much shorter than its VM, or the kernel would be told at each look.
_LATE = 900


class Chains:
    """The chains on vifs. They hold our counters and the seal.

    usable: whether the kernel has such chains, by the last probe; True before the first probe.
    fresh: keys of the vifs whose counters began since they were last read.
    counted: keys of the vifs whose counters a meter reads.
    stuck: nft's error at the last removal of chains or counters; "" if it worked.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables, self._apply, self._table = tables, tables.apply, tables.of()
        self._failed: dict[str, str] = {}  # interface -> why it has no chains
        self.usable = True
        self._allowed: dict[str, tuple[str, ...]] = {}  # key -> the networks that its chains let through
        self._known: dict[str, tuple[int, ...]] = {}  # chain -> its rules as first seen: earlier changes go unnoticed
        self._seen: View | None = None
        self._mark: object = None  # the rules' generation and the interfaces, just before the look that gave `_seen`
        self.fresh: set[str] = set()
        self.counted: set[str] = set()
        self.stuck = ""

    def probe(self) -> str | None:
        """Why this host cannot have such chains, or None. Tries them on the loopback interface."""
        trial = Port(0, 0, 1, "lo")
        error = self._apply(nft.foundation() + nft.cover(*trial[:5])) or self._apply(nft.uncover(trial.key))
        self.usable = error is None
        return error and f"nft refuses netdev chains with ingress and egress hooks (they need linux 5.16): {error}"

    def look(self) -> View:
        """The table as it is. It is read again only if a rule or an interface changed since the last look. Raises
        MeterError."""
        generation, interfaces = self._tables.generation(), self._tables.links.now()
        if self._seen is None or self._mark != (generation, interfaces) or self._seen.interfaces != interfaces:
            self._seen, self._mark = self._look(), (generation, interfaces)
        return self._seen

    def _look(self) -> View:
        # A hook may add a vif between these reads, in one commit: so maps and chains are read after the counters that
        # need them.
        counters = frozenset(self._table.counters())
        sealed = nft.indexes(self._table.elements("sealed"))
        maps = {what: nft.mapped(self._table.objects(what)) for what in nft.WHAT}
        chains = self._table.chains()
        self._known = {name: self._known.get(name, chain.rules) for name, chain in chains.items()}
        changed = frozenset(name for name, chain in chains.items() if self._known[name] != chain.rules)
        return View(chains, counters, sealed, maps, changed, self._tables.links.now())

    def aliased(self) -> dict[int, float]:
        """The vifs whose guests used another MAC: ifindex -> for how many seconds it may be remembered. Raises
        MeterError."""
        return {int.from_bytes(key, sys.byteorder): seconds for key, seconds in self._table.left("aliased").items()}

    def broken(self, ports: Iterable[Port], view: View) -> list[Port]:
        """The vifs that have counters but whose traffic does not reach them: a chain is gone, was changed, leads to no
        counter, or is not bound to the vif's name (linux 6.18 unbinds a chain when its interface is renamed)."""
        whole = view.founded
        return [port for port in ports if view.counts(port) and not (whole and view.bound(port))]

    def uncounted(self, ports: Iterable[Port], view: View) -> list[Port]:
        """The vifs whose counters a meter reads, and whose traffic did not reach them: their counters are to be
        restarted before their chains are repaired, or that traffic is never counted."""
        return [port for port in self.broken(ports, view) if port.key in self.counted]

    def keep(self, ports: Collection[Port], view: View) -> None:
        """Repair the chains of these vifs, but for those that are uncounted. Raises MeterError."""
        self._repair(ports, view)
        self._remind(ports)

    def _remind(self, ports: Iterable[Port]) -> None:
        """Have the kernel know for as long as it should which VMs used another MAC. Of a vif without a known MAC nobody
        can say what is for it."""
        wanted = {port.ifindex: nft.DAY if port.mac is None else port.aliased for port in ports}
        wanted = {ifindex: seconds for ifindex, seconds in wanted.items() if seconds}
        left = self.aliased() if wanted else {}
        text = "".join(nft.alias(i, seconds) for i, seconds in wanted.items() if left.get(i, 0) + _LATE < seconds)
        if text:
            # It fails where the foundation could not be laid, which is a problem of each vif already.
            self._apply(text)

    def _repair(self, ports: Collection[Port], view: View) -> None:
        if not view.founded and view.count_any(self.counted):
            return
        uncounted = {port.key for port in self.uncounted(ports, view)}
        ports = [port for port in ports if port.key not in uncounted]
        wrong = [port for port in ports if not self._right(port, view)]
        elsewhere = {name for _, name in view.interfaces} - {port.interface for port in ports}
        self._failed = {name: why for name, why in self._failed.items() if name in elsewhere}
        if not wrong and view.founded:
            return
        able = [port for port in wrong if nft.can_name(port.interface)]
        # Writing the foundation again makes the kernel wait for every packet under way, and hooks wait for the kernel.
        base = "" if view.founded else nft.foundation()
        text = view.text(able)
        # The foundation may have been deleted since the look.
        laid = self._apply(base + text) is None or (not base and self._apply(nft.foundation() + text) is None)
        # A vif that vanished since the look makes nft refuse the whole batch.
        errors = {} if laid else self._lay_apart(sorted(able, key=lambda port: not port.sealed), view)
        able = [port for port in able if port not in errors]
        if base and (laid or able):
            # The rules just written are the known ones, not what another program makes of them before the next look.
            self._known.clear()
            self._look()
        self._allowed |= {port.key: port.allow for port in able}
        self.fresh |= {port.key for port in able if not view.counts(port)}
        unable = [port for port in wrong if port not in able]
        self._failed |= {
            port.interface: f"nft refuses its chains: {errors[port]}" if port in errors else "nft cannot spell its name"
            for port in unable
        }
        # Counters that no traffic reaches would look like a vif without traffic.
        self.release([port.key for port in unable if view.counts(port)])

    def _lay_apart(self, ports: Sequence[Port], view: View) -> dict[Port, str]:
        """Repair the chains of these vifs in smaller and smaller batches. Returns nft's errors by vif."""
        error = self._apply(nft.foundation())
        return dict.fromkeys(ports, error) if error is not None else self._lay_halves(ports, view)

    def _lay_halves(self, ports: Sequence[Port], view: View) -> dict[Port, str]:
        middle, errors = (len(ports) + 1) // 2, dict[Port, str]()
        for some in filter(None, (ports[:middle], ports[middle:])):
            # nft takes a while for each batch, so a thousand vifs are not tried one by one.
            error = self._apply(view.text(some))
            if error is not None:
                errors |= {some[0]: error} if len(some) == 1 else self._lay_halves(some, view)
        return errors

    def problems(self, ports: Iterable[Port]) -> list[str]:
        """Which of these vifs could not be given their chains, and why."""
        failed = sorted(self._failed.keys() & {port.interface for port in ports})
        return [f"{name}: neither sealed nor metered to its last byte: {self._failed[name]}" for name in failed]

    def restart(self, ports: Collection[Port], view: View) -> None:
        """Delete the counters of vifs whose traffic did not reach them. A sealed vif stays sealed meanwhile."""
        text = "".join(nft.uncount(port.key, port.ifindex) for port in ports)
        self._remove(view.strays(ports) + text, nft.foundation() + text)
        for port in ports:
            self.fresh.discard(port.key)

    def release(self, keys: Collection[str]) -> None:
        """Delete chains and counters of vifs that are gone and whose last bytes were read."""
        if keys:
            gone = {life[2] for life in map(nft.life_of, keys) if life is not None}
            macs = [(index, mac) for index, mac in nft.own(self._table.elements("own")) if index in gone]
            text = "".join([*map(nft.uncover, keys), *(nft.disown(index, mac) for index, mac in macs)])
            self._remove(text, nft.foundation() + text)
            for name in keys:
                self._allowed.pop(name, None)
                self.fresh.discard(name)

    def _remove(self, text: str, founded: str) -> None:
        """Hand nft the text; if it refuses, the text with the foundation first, which may have been deleted."""
        error = self._apply(text)
        if error is not None:
            error = self._apply(founded)
        self.stuck = error or ""

    def _right(self, port: Port, view: View) -> bool:
        """Whether a vif's chains are on it, and seal and allow what they should."""
        if not view.bound(port) or view.seals(port) is not port.sealed:
            return False
        if port.sealed and port.allow:
            return view.allows(port) and self._allowed.get(port.key) == port.allow
        return not view.allows(port)


@dataclass(frozen=True)
class View:
    """The table as it was at one look. counters: their names. sealed: ifindexes of sealed vifs. maps: map -> ifindex ->
    counter. changed: the chains whose rules differ from when they were first seen. interfaces: (ifindex, name) of each
    interface that existed after all this was read."""

    chains: Mapping[str, Chain]
    counters: frozenset[str]
    sealed: frozenset[int]
    maps: Mapping[str, Mapping[int, str]]
    changed: frozenset[str]
    interfaces: list[tuple[int, str]]

    def present(self, ports: Iterable[Port]) -> list[Port]:
        """The vifs that existed. A vif that is gone loses nothing: its counters are read at its end."""
        there = {ifindex for ifindex, _ in self.interfaces}
        return [port for port in ports if port.ifindex in there]

    def unclaimed(self, ports: Iterable[Port]) -> frozenset[int]:
        """The ifindexes of the interfaces whose VM is not known."""
        claimed = {port.ifindex for port in ports if port.vm_id is not None}
        return frozenset(ifindex for ifindex, _ in self.interfaces if ifindex not in claimed)

    @property
    def founded(self) -> bool:
        """Whether the chains that all vifs share are whole."""
        return all(self._whole(name, "", len(rules)) for name, rules in nft.SHARED.items())

    def bound(self, port: Port) -> bool:
        """Whether the vif's chains are on it and lead its traffic to its counters."""
        key, index = port.key, port.ifindex
        return all(self._whole(f"{key}-{way}", port.interface, 1) for way in nft.WAYS) and all(
            self.maps[what].get(index) == f"{key}-{what}" for what in nft.WHAT
        )

    def _whole(self, name: str, device: str, rules: int) -> bool:
        chain = self.chains.get(name)
        return chain is not None and name not in self.changed and (chain.device, len(chain.rules)) == (device, rules)

    def counts(self, port: Port) -> bool:
        """Whether the vif has counters."""
        return f"{port.key}-in" in self.counters

    def count_any(self, keys: Iterable[str]) -> bool:
        """Whether any of the vifs with these keys exists and has counters."""
        there = {index for index, _ in self.interfaces}
        lives = (nft.life_of(key) for key in keys if f"{key}-in" in self.counters)
        return any(life is not None and life[2] in there for life in lives)

    def seals(self, port: Port) -> bool:
        """Whether the vif is sealed."""
        return port.ifindex in self.sealed

    def allows(self, port: Port) -> bool:
        """Whether the vif has chains that let allowed networks through its seal."""
        return f"{port.key}-allowed-in" in self.chains

    def strays(self, ports: Iterable[Port]) -> str:
        """Text that deletes map elements which lead from these vifs to other vifs' counters: nft does not replace an
        element by adding another."""
        return "".join(
            nft.stray(what, port.ifindex)
            for port in ports
            for what in nft.WHAT
            if self.maps[what].get(port.ifindex, f"{port.key}-{what}") != f"{port.key}-{what}"
        )

    def text(self, ports: Collection[Port]) -> str:
        """Text that repairs the chains of these vifs. Chains that are bound to another name, as after a rename, are
        deleted first: nft does not change the device of an existing chain."""
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
        parts.append(nft.seal([port.ifindex for port in ports if port.sealed]))
        parts.append(nft.unseal([port.ifindex for port in ports if not port.sealed]))
        return "".join(parts)


def _names(port: Port) -> list[str]:
    return [f"{port.key}-{way}" for way in nft.WAYS]

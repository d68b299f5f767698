"""Our chains on guests' interfaces: put there, kept whole and taken away again. What they say is the nft meter's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from xenbw.net import nft
from xenbw.net.netfilter import Chain, Table

Apply = Callable[[str], bool]
"""apply(text): hand nft a whole batch, which happens wholly or not at all; whether it did."""


class Port(NamedTuple):
    """A guest's interface: which life of which vif, what it is called now, and the MAC that Xen gave it."""

    domid: int
    devid: int
    ifindex: int
    interface: str
    mac: str | None = None
    sealed: bool = False

    @property
    def key(self) -> str:
        return nft.key(self.domid, self.devid, self.ifindex)

    @property
    def text(self) -> str:
        """What makes its chains as they should be."""
        opened = "" if self.sealed else nft.unseal(self.ifindex)
        return nft.cover(*self[:5], sealed=self.sealed) + opened


class Chains:
    """The chains of the guests' interfaces.

    fresh: keys of those whose counters began just now. failed: interface -> why it has no chains.
    """

    def __init__(self, apply: Apply, table: Table) -> None:
        self._apply, self._table = apply, table
        self._sealed: dict[str, bool] = {}
        self.fresh: set[str] = set()
        self.failed: dict[str, str] = {}

    def probe(self) -> str | None:
        """Why chains cannot be had on this host, or None. Tries them on the loopback interface."""
        trial = Port(0, 0, 1, "lo")
        works = self._apply(nft.foundation() + trial.text) and self._apply(nft.uncover(trial.key))
        return None if works else "nft refuses netdev chains with ingress and egress hooks (they need linux 5.16)"

    def look(self) -> View:
        """How things stand. Raises MeterError."""
        return View(self._table.chains(), self._table.counters())

    def broken(self, ports: Iterable[Port], view: View) -> list[Port]:
        """Those whose counters are there while something passes them by: a chain is gone, is empty, or is bound to no
        interface of that name (linux 6.18 lets go of one that is renamed)."""
        whole = view.founded
        return [port for port in ports if view.counts(port) and not (whole and view.bound(port))]

    def keep(self, ports: Iterable[Port], view: View) -> None:
        """Make the chains of these interfaces what they should be."""
        wrong = [port for port in ports if self._sealed.get(port.key) is not port.sealed or not view.bound(port)]
        self.failed = {}
        if not wrong and view.founded:
            return
        able = [port for port in wrong if nft.can_name(port.interface)]
        # Laying the foundation anew makes the kernel wait for every packet under way, and hooks wait for that.
        base = "" if view.founded else nft.foundation()
        if not self._apply("".join([base, *map(view.text, able)])):
            # One that vanished meanwhile spoils the batch of all.
            able = [port for port in able if self._apply(nft.foundation() + view.text(port))]
        self.fresh |= {port.key for port in able if not view.counts(port)}
        self._sealed |= {port.key: port.sealed for port in able}
        unable = [port for port in wrong if port not in able]
        self.failed = {
            port.interface: "nft refuses its chains" if nft.can_name(port.interface) else "nft cannot spell its name"
            for port in unable
        }
        # Counters that nothing reaches would pass for an interface that stands still.
        self.release([port.key for port in unable if view.counts(port)])

    def release(self, keys: Collection[str]) -> None:
        """Take away chains and counters of interfaces that are gone and accounted for."""
        if keys:
            text = "".join(map(nft.uncover, keys))
            _ = self._apply(text) or self._apply(nft.foundation() + text)
            for name in keys:
                self._sealed.pop(name, None)
                self.fresh.discard(name)


@dataclass(frozen=True)
class View:
    """The table as it was at one look: its chains, and its counters by name."""

    chains: Mapping[str, Chain]
    counters: Mapping[str, int]

    @property
    def founded(self) -> bool:
        """Whether what all interfaces share is whole."""
        return all(self.chains.get(name) == Chain("", len(rules)) for name, rules in nft.SHARED.items())

    def bound(self, port: Port) -> bool:
        """Whether the interface's chains are on it."""
        return all(self.chains.get(f"{port.key}-{way}") == (port.interface, 1) for way in ("in", "out"))

    def counts(self, port: Port) -> bool:
        """Whether there are counters for the interface."""
        return f"{port.key}-in" in self.counters

    def text(self, port: Port) -> str:
        """What makes the interface's chains right. One that is bound elsewhere, as after a rename, is made anew: nft
        would leave its device as it is."""
        names = [f"{port.key}-{way}" for way in ("in", "out")]
        moved = any(name in self.chains and self.chains[name].device != port.interface for name in names)
        return (nft.unchain(port.key) if moved else "") + port.text

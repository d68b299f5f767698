"""The throttle: past a VM's allowance, traffic within its rate passes and counts as usage, faster traffic is refused.

Whether the VM is past it is the tripwire's to say: each throttled VM has a tripwire "slow" (tripwire.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from xenbw.blocks import throttle_text as text
from xenbw.blocks.block import Outcome, Wanted
from xenbw.errors import MeterError
from xenbw.nft import nft
from xenbw.nft.chains import Chains
from xenbw.nft.port import Port
from xenbw.nft.tables import Tables

_CANNOT = "VMs cannot be throttled on this host"


class _View(NamedTuple):
    """What there is: by direction the limit that each vif is led to, by ifindex; the limit objects; and whether the
    rules that lead there are whole."""

    maps: Mapping[str, Mapping[int, str]]
    limits: frozenset[str]
    founded: bool


class Throttle:
    """The throttles on all vifs, in the chains that count them."""

    name = "throttle"

    def __init__(self, tables: Tables, chains: Chains) -> None:
        self._tables, self._chains = tables, chains
        self._done: object = None  # the rules' generation and the ports, when all was as wanted

    def probe(self) -> str | None:
        said = self._chains.probe()
        if said is None and (error := self._tables.apply(text.trial())) is not None:
            said = f"nft refuses limits in netdev chains: {error}"
        return said and f"{_CANNOT}: {said}"

    def apply(self, wanted: Wanted) -> Outcome:
        ports = [port for port in wanted.ports if port.throttle is not None and not port.sealed]
        if not self._chains.usable:
            return Outcome(problems=(f"{_CANNOT}: its kernel has no netdev chains",) if ports else ())
        try:
            if self._done == (self._tables.generation(), wanted.ports):
                return Outcome()
            view = self._chains.look()
            present = view.present(ports)
            # A vif whose VM was blocked until now stays sealed until the blocks after this one let it pass.
            self._chains.keep([port._replace(sealed=view.seals(port)) for port in present], view)
            said = self._change(present, view.unclaimed(wanted.ports))
            self._done = (self._tables.generation(), wanted.ports) if said is None else None
        except MeterError as error:
            said = str(error)
        return Outcome(problems=() if said is None else (f"{_CANNOT}: {said}",))

    def _change(self, ports: list[Port], unclaimed: frozenset[int]) -> str | None:
        """Make the throttles what they should be; nft's error, or None."""
        view = self._look()
        if not ports and not any(view.maps.values()) and not view.limits:
            return None
        batch = self._text(ports, unclaimed, view)
        said = self._tables.apply(batch) if batch else None
        if said is not None:
            # What all share may have gone since the look.
            batch = self._text(ports, unclaimed, self._look())
            said = self._tables.apply(nft.foundation() + text.foundation() + batch)
        return said

    def _text(self, ports: list[Port], unclaimed: frozenset[int], view: _View) -> str:
        # A hook has led vifs of VMs that are not known here yet.
        led = {way: {i: name for i, name in view.maps[way].items() if i in unclaimed} for way in nft.WAYS}
        parts = [] if view.founded else [text.foundation()]
        for port in ports:
            vm_id, *rates = port.throttle or (0, 0, 0)
            for way, rate in zip(nft.WAYS, rates, strict=True):
                led[way][port.ifindex] = text.limit_of(vm_id, way, rate)
        parts += [
            text.loosen(way, [index for index, name in view.maps[way].items() if led[way].get(index) != name])
            for way in nft.WAYS
        ]
        changed = [port for port in ports if any(view.maps[w].get(port.ifindex) != led[w][port.ifindex] for w in led)]
        parts += [text.limits(*throttle) for throttle in {port.throttle for port in changed} if throttle is not None]
        for way in nft.WAYS:
            parts += [
                text.lead(way, port.ifindex, led[way][port.ifindex])
                for port in changed
                if view.maps[way].get(port.ifindex) != led[way][port.ifindex]
            ]
        wanted = {name for names in led.values() for name in names.values()}
        parts.append(text.drop_limits(sorted(view.limits - wanted)))
        return "".join(parts)

    def _look(self) -> _View:
        table, chains = self._tables.of(), self._chains.look().chains
        founded = all(name in chains and len(chains[name].rules) == len(rules) for name, rules in text.RULES.items())
        maps = {way: nft.mapped(table.objects(f"throttle-{way}")) for way in nft.WAYS}
        return _View(maps, table.limits(), founded)

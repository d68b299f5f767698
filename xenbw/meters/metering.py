"""Which meter counts, on which interfaces, and up to the last byte: the tally's way to the counters.

Used by the daemon's work. With the nft meter it also keeps our chains on the interfaces, and reads once more what they
counted when an interface is gone, before it takes them away.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Container, Iterable
from datetime import datetime

from xenbw.accounting import PeriodOf, Tally
from xenbw.allow import Exceptions
from xenbw.errors import MeterError
from xenbw.ledger import viflog
from xenbw.ledger.ledger import Ledger
from xenbw.meters.counters import KernelMeter, Meter
from xenbw.meters.nft import NftMeter
from xenbw.model import Amounts, Binding, Counters, Life
from xenbw.nft import nft
from xenbw.nft.chains import Apply, Chains, Port
from xenbw.nft.netlink import Table, hand_to_nft


class Metering:
    """The meter in use.

    reason: why it is not the best one, or nothing. seals: whether interfaces can be sealed. bridged: on how many
    interfaces the last count found our counters gone, and went by the kernel's, and gaps: how often that happened.
    """

    def __init__(self, ledger: Ledger, tally: Tally, boot_id: str, apply: Apply) -> None:
        self._ledger, self._tally, self._boot_id = ledger, tally, boot_id
        self._table, self._apply = Table(nft.TABLE), apply
        self._chains: Chains | None = None
        self._ended: set[Life] = set()
        self._strangers: set[Life] = set()
        self.meter: Meter = KernelMeter()
        self.reason = ""
        self.gaps, self.bridged = 0, 0

    @property
    def problems(self) -> list[str]:
        """Which interfaces have none of our counters although they should, and why; and what nft does not let go of."""
        if self._chains is None:
            return []
        failed = [
            f"{interface}: neither sealed nor metered to its last byte: {why}"
            for interface, why in sorted(self._chains.failed.items())
        ]
        stuck = self._chains.stuck
        return failed + (
            [f"chains or counters of ours stay in nft, which refuses to delete them: {stuck}"] if stuck else []
        )

    def choose(self, source: str, xentop: Callable[[], Meter]) -> None:
        """Take the meter that [meter] source asks for; "auto" is nft where it works, else the kernel's."""
        self.meter.close()
        self._chains, self.meter, self.reason = None, KernelMeter(), ""
        chains = Chains(self._apply, self._table)
        why_not = chains.probe()
        if why_not is None:
            self._chains = chains
        if source == "xentop":
            self.meter = xentop()
        elif source != "kernel" and why_not is None:
            self.meter = NftMeter(self._table, chains, KernelMeter())
        elif source != "kernel":
            self.reason = why_not or ""

    @property
    def seals(self) -> bool:
        return self._chains is not None

    def forget(self) -> None:
        """Take away counters of which the ledger knows nothing: they are of times before it."""
        if self._chains is not None and isinstance(self.meter, NftMeter):
            known = {one.key for one in self._tally.tracked.values() if one.mark.own is not None}
            self._chains.release([nft.key(*life) for life in self.meter.lives() - known])

    def forget_rules(self) -> None:
        """Somebody changed them: what was seen of them before does not hold any more."""
        if self._chains is not None:
            self._chains.forget()

    def count(self, at: datetime, period_of: PeriodOf) -> set[int]:
        """Read, and credit every binding. Returns the ids of the VMs whose usage grew. Raises MeterError."""
        tracked = self._tally.tracked.values()
        stood = sum(one.mark.own is not None for one in tracked)
        grown = self._tally.credit(self.meter.read(tracked), at, period_of)
        lost = stood - sum(one.mark.own is not None for one in tracked)
        # Another meter reads none of ours: a hook that sealed an interface left them there, and nothing was lost.
        self.bridged = max(0, lost) if isinstance(self.meter, NftMeter) else 0
        self.gaps += self.bridged > 0
        return grown

    def settle(self, at: datetime, period_of: PeriodOf, vm_ids: Collection[int]) -> None:
        """Credit what ended bindings of these VMs counted since they were last read; those, too, that came and went
        unseen. Once that is committed, `release` takes their counters away. Raises MeterError."""
        self._adopt(vm_ids)
        live = self._ledger.live_bindings()
        ended = {id_: one for id_, one in self._tally.tracked.items() if id_ not in live and one.vm_id in vm_ids}
        ended_at = viflog.ends(self._ledger, ended)
        for id_, reading in self.meter.last(ended.values()).items():
            # Hooks write down what the clock says, which may be anything.
            until = min(max(ended_at.get(id_, at), ended[id_].last_at), at)
            self._tally.credit({id_: reading}, until, period_of)
        self._ended |= {one.key for one in ended.values()}
        self._ended -= {binding.key for binding in live.values() if binding.boot_id == self._boot_id}

    def passed(self, life: Life) -> bool:
        """Whether our counters of that interface, which may be gone, have seen anything."""
        try:
            return isinstance(self.meter, NftMeter) and self.meter.passed(life)
        except MeterError:
            return True  # to be on the safe side: nobody would ask again

    def counts(self, life: Life) -> Amounts | None:
        """What our counters of that interface say, which may be gone; None where it has none. Raises MeterError."""
        return self.meter.counted([life]).get(life) if isinstance(self.meter, NftMeter) else None

    def _adopt(self, vm_ids: Collection[int]) -> None:
        """Follow bindings of these VMs that ended while nobody read their counters."""
        if not isinstance(self.meter, NftMeter):
            return
        lives = self.meter.lives()
        lives -= {one.key for one in self._tally.tracked.values()} | self._ended
        for binding in viflog.ended(self._ledger, self._boot_id, [life.ifindex for life in lives]):
            if binding.key in lives and binding.vm_id in vm_ids:
                self._tally.follow(binding, binding.started_at)

    def busy(self) -> set[int]:
        """The ifindexes of interfaces that are there, are followed, or have counters that nobody has taken away yet: of
        their bindings not every byte need be in the ledger. Raises MeterError."""
        found = {ifindex for ifindex, _ in socket.if_nameindex()}
        found |= {one.key.ifindex for one in self._tally.tracked.values()}
        if isinstance(self.meter, NftMeter):
            found |= {life.ifindex for life in self.meter.lives()}
        return found

    def release(self) -> None:
        """What ended is accounted for, and in the ledger: take its counters away."""
        if self._chains is not None:
            self._chains.release([nft.key(*life) for life in self._ended])
        self._ended.clear()

    def unclaimed(self) -> set[Life]:
        """Interfaces that came and went without ever being somebody's, and have counters of ours. Raises
        MeterError."""
        if not isinstance(self.meter, NftMeter):
            return set()
        there = {ifindex for ifindex, _ in socket.if_nameindex()}
        lives = {life for life in self.meter.lives() if life.ifindex not in there}
        lives -= {one.key for one in self._tally.tracked.values()} | self._ended
        bound = [*self._ledger.live_bindings().values()]
        bound += viflog.ended(self._ledger, self._boot_id, [life.ifindex for life in lives])
        return lives - {binding.key for binding in bound}

    def sweep(self) -> dict[Life, Counters]:
        """Take away counters of interfaces that are unclaimed, as with a vif script that failed, and were so a call
        ago: whoever may still tell whose they were has done so. Returns what had passed them, where anything had.
        Raises MeterError."""
        lives = self.unclaimed()
        swept, self._strangers = lives & self._strangers, lives
        if self._chains is None or not isinstance(self.meter, NftMeter) or not swept:
            return {}
        counted = self.meter.counted(swept)
        self._chains.release([nft.key(*life) for life in swept])
        return {life: amounts.usage for life, amounts in counted.items() if any(amounts.usage)}

    def keep(
        self,
        bindings: Iterable[Binding],
        arriving: Collection[Port],
        blocked: Container[int],
        allow: Exceptions,
        count: Callable[[], object],
    ) -> None:
        """See that every live interface has our chains as they should be, and those of blocked VMs their seal, open for
        what they are allowed, by their ids; so have
        those that are arriving and bound to no VM yet. With another meter than nft, only what is sealed has chains.
        Raises MeterError.

        count() reads all counters and credits what passed, and changes nothing else. It is called where something
        passed by ours, after they were taken away, so that it goes by the kernel's; and right after ours began, since
        what passes before is bridged.
        """
        if self._chains is None:
            return
        view = self._chains.look()
        # One that went away under our look has lost nothing: what its counters have is read at its end.
        there = {ifindex for ifindex, _ in view.interfaces}
        ports = [_port(binding, blocked, allow) for binding in bindings if binding.ifindex in there]
        early = [port for port in arriving if port.ifindex in there]
        if not isinstance(self.meter, NftMeter):
            self._chains.release([port.key for port in ports if not port.sealed and view.counts(port)])
            self._chains.keep([port for port in (*ports, *early) if port.sealed], view)
            return
        broken = self._chains.broken(ports, view)
        if broken:
            self._chains.restart(broken, view)
            count()
            view = self._chains.look()
        self._chains.keep([*ports, *early], view)
        # Who binds them says from where they count.
        self._chains.fresh -= {port.key for port in early}
        if self._chains.fresh:
            count()

    def close(self) -> None:
        self.meter.close()
        self._table.close()


def _port(binding: Binding, blocked: Container[int], allow: Exceptions) -> Port:
    sealed, allowed = binding.vm_id in blocked, allow.of(binding.vm_id)
    return Port(*binding.key, binding.interface, binding.mac, sealed=sealed, allow=allowed)


def seal(bindings: Iterable[Binding], blocked: Container[int], allow: Exceptions) -> str | None:
    """Seal the interfaces of blocked VMs, but for what they are allowed, and open the others' again, where no daemon
    does. Why not, or None."""
    table = Table(nft.TABLE)
    chains = Chains(hand_to_nft, table)
    try:
        view = chains.look()
        ports = [port for port in (_port(b, blocked, allow) for b in bindings) if port.sealed or view.counts(port)]
        if not ports:
            return None
        chains.keep(ports, view)
    except MeterError as error:
        return str(error)
    finally:
        table.close()
    return "; ".join(f"{interface}: {why}" for interface, why in chains.failed.items()) or None

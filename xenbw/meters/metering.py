"""Metering: the meter in use, and our counters on each vif from its first byte to its last.

With the nft meter our chains hold the counters: they are put on each vif, repaired if another program broke them, read
a last time when the vif is gone, and then deleted.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from datetime import datetime

from xenbw.accounting import PeriodOf, Tally
from xenbw.errors import MeterError
from xenbw.ledger import viflog
from xenbw.ledger.ledger import Ledger
from xenbw.meters.aliases import Aliases
from xenbw.meters.counters import KernelMeter, Meter
from xenbw.model import Amounts, Counters, Life
from xenbw.nft import nft
from xenbw.nft.chains import Chains
from xenbw.nft.port import Port


class Metering:
    """The meter in use.

    reason: why the best meter cannot be used, or "". bridged: on how many vifs the last count found our counters gone
    and used the kernel's. gaps: how many counts did so. reads: how many counts there were. problems: which
    vifs are not metered to their last byte and why, and nft's refusal to delete chains.
    """

    def __init__(self, ledger: Ledger, tally: Tally, boot_id: str, chains: Chains) -> None:
        self._ledger, self._tally, self._boot_id, self._chains = ledger, tally, boot_id, chains
        self.aliases = Aliases(ledger, chains)
        self._ended: set[Life] = set()
        self._unclaimed: set[Life] = set()  # at the last sweep
        self._failed: list[str] = []
        self.meter: Meter = KernelMeter()
        self.reason = ""
        self.gaps, self.bridged, self.reads = 0, 0, 0

    @property
    def problems(self) -> list[str]:
        stuck = self._chains.stuck
        return self._failed + (
            [f"chains or counters of ours stay in nft, which refuses to delete them: {stuck}"] if stuck else []
        )

    def use(self, meter: Meter, reason: str) -> None:
        """Count with this meter from now on."""
        self.meter.close()
        self.meter, self.reason, self._failed = meter, reason, []

    def forget(self) -> None:
        """Delete counters that the ledger does not know: they are older than the ledger."""
        known = {one.key for one in self._tally.tracked.values() if one.mark.own is not None}
        self._release(self.meter.lives() - known)

    def restart(self, ports: Collection[Port], at: datetime, period_of: PeriodOf) -> set[int]:
        """Delete the counters that traffic did not reach, since a chain is gone or was changed, and those that stood
        while another meter counted. The next count goes by the kernel's counters; a sealed vif stays sealed. Call it
        right before a count. Returns the ids of the VMs whose usage grew by what the first kind still had. Raises
        MeterError."""
        followed = {nft.key(*one.key): one for one in self._tally.tracked.values()} if self.meter.own else {}
        self._chains.counted = set(followed)
        if not followed or not self._chains.usable:
            return set()
        view = self._chains.look()
        there, others = view.present(ports), self._by_another_meter()
        idle = [port for port in there if port.key in others and view.counts(port)]
        uncounted = [port for port in self._chains.uncounted(there, view) if port.key not in others]
        if not uncounted and not idle:
            return set()
        # Refused and flood bytes are credited as such: the kernel's counters would make usage of them. The kernel's are
        # not read along with these: two readings at rest would take the traffic in between for a lead of theirs.
        last = self.meter.last([followed[port.key] for port in uncounted])
        grown = self._tally.credit(last, at, period_of)
        self._chains.restart([*uncounted, *idle], view)
        if self._chains.stuck:
            # They cannot be counted again, and the vifs are to be sealed all the same.
            self._chains.counted -= {port.key for port in uncounted}
        return grown

    def _by_another_meter(self) -> set[str]:
        """The keys of vifs whose last reading was by another meter. If our counters stand on such a vif, for a seal or
        a throttle, some of their bytes are credited already, and nobody can say which."""
        if not self.meter.own:
            return set()
        lately = [one for one in self._tally.tracked.values() if one.mark.own is None and any(one.mark.kernel)]
        return {nft.key(*one.key) for one in lately} - self._chains.fresh if lately else set()

    def begin(self, ports: Collection[Port]) -> bool:
        """See that every vif has our chains as they should be, with its seal if it has one. With another meter than
        nft, only sealed and throttled vifs have chains. Call it right after a count.

        Whether to restart and count once more: counters began, and a count right after that bridges the traffic before;
        or traffic did not reach some of them since the restart. Raises MeterError.
        """
        if not self._chains.usable:
            return False
        view = self._chains.look()
        there = view.present(ports)
        if not self.meter.own:
            self._chains.release([port.key for port in there if not port.held and view.counts(port)])
            there = [port for port in there if port.held]
        uncounted = self._chains.uncounted(there, view)
        self._chains.keep(there, view)
        self._failed = self._chains.problems(there)
        # Counters of a vif that is not bound yet begin where its binding says.
        self._chains.fresh &= self._chains.counted
        return bool(self._chains.fresh or uncounted)

    def count(self, at: datetime, period_of: PeriodOf) -> set[int]:
        """Read all counters and credit every binding. Returns the ids of VMs whose usage grew. Raises MeterError."""
        tracked, others = self._tally.tracked.values(), self._by_another_meter()
        stood = sum(one.mark.own is not None for one in tracked)
        if self.meter.own:
            self.aliases.note(tracked, at)
        readings = self.meter.read(tracked)
        if others:
            for one in tracked:
                if nft.key(*one.key) in others and one.binding_id in readings:
                    readings[one.binding_id] = readings[one.binding_id]._replace(own=None)
        grown = self._tally.credit(readings, at, period_of)
        self.reads += 1
        lost = stood - sum(one.mark.own is not None for one in tracked)
        # Other meters do not read our counters, which a hook may have put on a sealed vif: so none were lost.
        self.bridged = max(0, lost) if self.meter.own else 0
        self.gaps += self.bridged > 0
        return grown

    def glance(self, vm_ids: Collection[int], at: datetime, period_of: PeriodOf) -> set[int] | None:
        """Read and credit the live vifs of these VMs alone. Returns the ids of VMs whose usage grew; None, with nothing
        credited, if `count` has to read them since their counters are new or lost. Raises MeterError."""
        wanted = [one for one in self._tally.tracked.values() if one.vm_id in vm_ids]
        readings, others = self.meter.glance(wanted), self._by_another_meter()
        if any(one.binding_id not in readings or nft.key(*one.key) in others for one in wanted):
            return None
        return self._tally.credit(readings, at, period_of)

    def settle(self, at: datetime, period_of: PeriodOf, vm_ids: Collection[int]) -> None:
        """Credit the last bytes of ended bindings of these VMs, including vifs that the daemon never saw. Once that is
        committed, `release` deletes their counters. Raises MeterError."""
        self._adopt(vm_ids)
        live = self._ledger.live_bindings()
        ended = {id_: one for id_, one in self._tally.tracked.items() if id_ not in live and one.vm_id in vm_ids}
        if ended and self.meter.own:
            self.aliases.note(ended.values(), at)
        ended_at, others = viflog.ends(self._ledger, ended), self._by_another_meter()
        last = self.meter.last([one for one in ended.values() if nft.key(*one.key) not in others])
        for id_, reading in last.items():
            # Hooks write the clock's time, and the clock may have been wrong.
            until = min(max(ended_at.get(id_, at), ended[id_].last_at), at)
            self._tally.credit({id_: reading}, until, period_of)
        self._ended |= {one.key for one in ended.values()}
        self._ended -= {binding.key for binding in live.values() if binding.boot_id == self._boot_id}

    def passed(self, life: Life) -> bool:
        """Whether our counters of that vif, which may be gone, counted any byte."""
        try:
            return any(self.meter.counted([life]).get(life) or ())
        except MeterError:
            return True  # to be on the safe side: this is asked only once

    def counts(self, life: Life) -> Amounts | None:
        """The amounts of our counters of that vif, which may be gone; None if it has none. Raises MeterError."""
        return self.meter.counted([life]).get(life)

    def _adopt(self, vm_ids: Collection[int]) -> None:
        """Follow bindings of these VMs that ended before their counters were ever read."""
        lives = self.meter.lives()
        lives -= {one.key for one in self._tally.tracked.values()} | self._ended
        for binding in viflog.ended(self._ledger, self._boot_id, [life.ifindex for life in lives]):
            if binding.key in lives and binding.vm_id in vm_ids:
                self._tally.follow(binding, binding.started_at)

    def busy(self) -> set[int]:
        """The ifindexes of interfaces that exist, are followed, or still have our counters: not all bytes of their
        bindings need be in the ledger yet. Raises MeterError."""
        there = {ifindex for ifindex, _ in socket.if_nameindex()}
        followed = {one.key.ifindex for one in self._tally.tracked.values()}
        return there | followed | {life.ifindex for life in self.meter.lives()}

    def release(self) -> None:
        """Delete the counters of ended vifs: their last bytes are in the ledger."""
        self._release(self._ended)
        self._ended.clear()

    def _release(self, lives: Collection[Life]) -> None:
        if self._chains.usable:
            self._chains.release([nft.key(*life) for life in lives])

    def unclaimed(self) -> set[Life]:
        """Vifs that are gone, have our counters, and were never bound to a VM. Raises MeterError."""
        there = {ifindex for ifindex, _ in socket.if_nameindex()}
        lives = {life for life in self.meter.lives() if life.ifindex not in there}
        lives -= {one.key for one in self._tally.tracked.values()} | self._ended
        bound = [*self._ledger.live_bindings().values()]
        bound += viflog.ended(self._ledger, self._boot_id, [life.ifindex for life in lives])
        return lives - {binding.key for binding in bound}

    def sweep(self) -> dict[Life, Counters]:
        """Delete counters of unclaimed vifs, as after a vif script that failed; only if the vif is still unclaimed at
        the second sweep, since a hook may tell its VM late. Returns the usage of those that counted any. Raises
        MeterError."""
        lives = self.unclaimed()
        swept, self._unclaimed = lives & self._unclaimed, lives
        if not swept:
            return {}
        counted = self.meter.counted(swept)
        self._release(swept)
        return {life: amounts.usage for life, amounts in counted.items() if any(amounts.usage)}

    def close(self) -> None:
        self.meter.close()

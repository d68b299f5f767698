"""The tripwire: the kernel itself holds each VM's allowance, at the frame that would pass it, with no program running.

A line of an allowance is a quota object. The kernel refuses a frame that would take the object's consumption past its
limit. (Before Linux 6.16 and the stable kernels of June 2025 it refused also the frame that takes it exactly there, so
such a kernel stops a VM one frame earlier now and then. net/netfilter/nft_quota.c, nft_overquota.) Consumption and
usage grow by the same frames, so they differ by a constant, the gap = usage - consumption; the object's limit is
therefore line - gap. Two readings of the object around a count of usage tell the gap: it is at most usage - consumption
before the count, and exactly that if no frame came between the two readings (nft/quotas.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from xenbw.blocks import tripwire_text as text
from xenbw.blocks.block import Line, Outcome, Wanted
from xenbw.errors import MeterError
from xenbw.nft import nft
from xenbw.nft.chains import Chains, View
from xenbw.nft.objects import Quota
from xenbw.nft.port import Port
from xenbw.nft.quotas import Quotas
from xenbw.nft.tables import Tables
from xenbw.quota import FRAME

_CANNOT = "allowances are held by xenbwd alone, not by the kernel"


@dataclass(frozen=True)
class Gap:
    """How far a line's usage is ahead of its quota object's consumption, in bytes.

    since: when the usage's period began. exact: whether no frame came while it was measured; until then it is the
    least that was measured, and too large by the frames that came. doubted: another exact measurement, seen once.
    """

    bytes: int
    since: datetime
    exact: bool
    doubted: int | None = None


def measured(line: Line, before: Quota | None, after: Quota | None, known: Gap | None) -> Gap | None:
    """The gap after one more measurement; None while nothing was measured. before, after: the quota object right before
    and right after the usage was counted."""
    if before is None or after is None or before.limit != after.limit or after.spent:
        return known
    if after.consumed < before.consumed:
        return None  # another object took its place
    gap, still = line.used - before.consumed, before.consumed == after.consumed
    if known is None or known.since != line.since:
        return Gap(gap, line.since, still)
    if still and (gap >= known.bytes or not known.exact or gap == known.doubted):
        return Gap(gap, line.since, exact=True)
    # Usage that is behind may only be late, as that of a vif whose VM was just found.
    if still:
        return replace(known, doubted=gap)
    return known if known.exact else replace(known, bytes=min(known.bytes, gap))


class _Change:
    """A change of the quota objects. text: for nft. gaps: as they are after it. made: the names of the objects that it
    makes. gone: of those that have to be deleted before. late: usage by the names of objects that ran out too early,
    unless usage of a vif that ended is yet to come."""

    def __init__(self, gaps: Mapping[str, Gap], gone: Iterable[str]) -> None:
        self.gaps, self.made, self.gone = dict(gaps), set[str](), set(gone)
        self.late: dict[str, int] = {}
        self.text = ""

    def follow(self, name: str, line: Line, now: Quota, sure: int | None) -> None:
        """Have the object's limit be what the line says. sure: the usage that is known to be complete.

        An object that ran out counted what it refused as well: if the line allows more now, another takes its place.
        """
        if line.limit is None:
            self.text += text.quota(name, 1) if now.limit != 1 else ""
            return
        gap = self.gaps.get(name)
        if gap is not None and gap.since != line.since:
            gap = None
        limit = now.limit if gap is None else max(1, line.limit - gap.bytes)
        if now.spent:
            left, raised = line.limit - line.used, limit > now.limit
            if left > 0 and (raised or (sure == line.used and (gap is None or left >= FRAME))):
                self.gone.add(name)
                self.make(name, line)
            else:
                self.late[name] = line.used
        elif limit != now.limit:
            self.text += text.quota(name, limit)

    def make(self, name: str, line: Line) -> None:
        self.made.add(name)
        self.gaps.pop(name, None)
        limit = max(1, line.limit or 0)
        # The kernel refuses an object that has more used than its limit (nft_quota.c, nft_quota_do_init), and with it
        # the tripwires of all VMs.
        self.text += text.quota(name, limit, min(max(0, line.used), limit))


class Tripwire:
    """The tripwires of all VMs. They are found by the VM, not by its vifs, so a restart of the VM changes nothing."""

    name = "tripwire"

    def __init__(self, tables: Tables, chains: Chains, quotas: Quotas) -> None:
        self._tables, self._chains, self._quotas = tables, chains, quotas
        self._gaps: dict[str, Gap] = {}
        self._late: dict[str, int] = {}
        self._done: object = None  # the rules' generation, the ports and the lines' names, when every vif was led right

    def probe(self) -> str | None:
        said = self._chains.probe() or self._tables.apply(nft.foundation() + text.foundation())
        return said and f"nft refuses quotas in netdev chains: {said}"

    def apply(self, wanted: Wanted) -> Outcome:
        if not self._chains.usable:
            return Outcome()
        lines = {text.quota_of(line.vm_id, line.kind, line.counted): line for line in wanted.lines}
        try:
            said = self._try(lines, wanted.ports, "")
            if said is not None:
                # The foundation may have gone since the look.
                said = self._try(lines, wanted.ports, nft.foundation() + text.foundation())
        except MeterError as error:
            said = str(error)
        return Outcome(problems=(f"{_CANNOT}: {said}",) if said and lines else ())

    def _try(self, lines: Mapping[str, Line], ports: tuple[Port, ...], foundation: str) -> str | None:
        """Make the tripwires what they should be; nft's error, or None. Raises MeterError."""
        now = {name: quota for name, quota in self._quotas.now().items() if text.line_of(name) is not None}
        if not lines and not now:
            return None
        change = self._change(lines, now)
        mark = (self._tables.generation(), ports, lines.keys())
        if change.text or change.gone or foundation or mark != self._done:
            before, after = self._led(lines, ports, change.gone)
            batch = foundation + before + text.drop(sorted(change.gone)) + change.text + after
            said = self._tables.apply(batch) if batch else None
            if said is not None:
                self._done = None
                return said
        self._gaps, self._late = change.gaps, change.late
        # What was read around the last count was of other objects.
        self._quotas.before = {name: was for name, was in self._quotas.before.items() if name not in change.made}
        self._quotas.made = self._quotas.made or bool(change.made)
        # An object that ran out tells no consumption any more, so its gap cannot be measured.
        spent = {name for name, quota in now.items() if quota.spent and name not in change.made}
        exact = {name for name, gap in change.gaps.items() if gap.exact}
        self._quotas.unsettled = frozenset(
            name for name, line in lines.items() if line.limit is not None and name not in exact | spent
        )
        self._done = (self._tables.generation(), ports, lines.keys())
        return None

    def _change(self, lines: Mapping[str, Line], now: Mapping[str, Quota]) -> _Change:
        before, after, gaps = self._quotas.before, self._quotas.after, {}
        for name, line in lines.items():
            was = after.get(name)
            # One with less consumption than a moment ago is another object.
            if name in now and (was is None or now[name].consumed >= was.consumed):
                gap = measured(line, before.get(name), was, self._gaps.get(name))
                if gap is not None:
                    gaps[name] = gap
        change = _Change(gaps, now.keys() - lines.keys())
        for name, line in lines.items():
            if name in now:
                change.follow(name, line, now[name], self._sure(name, line) if name in before else None)
            else:
                change.make(name, line)
        return change

    def _sure(self, name: str, line: Line) -> int | None:
        """The usage that is known to be complete; None if none is."""
        # Past a line "slow" usage goes on growing: waiting for it to rest would throttle a busy VM for good.
        if self._quotas.complete or (line.kind == "slow" and name in self._late):
            return line.used
        return self._late.get(name)

    def _led(self, lines: Mapping[str, Line], ports: Iterable[Port], gone: set[str]) -> tuple[str, str]:
        """Text that takes vifs away from wrong quota objects and from those that go, and text that leads them to the
        right ones. Raises MeterError."""
        view = self._chains.look()
        wanted: dict[str, dict[int, str]] = {name: {} for name in text.MAPS}
        of_vm: dict[int, list[str]] = {}
        for name, line in lines.items():
            of_vm.setdefault(line.vm_id, []).append(name)
        for port in view.present(ports):
            for name in of_vm.get(port.vm_id, ()) if port.vm_id is not None else ():
                line = lines[name]
                for way in text.LED[line.counted]:
                    wanted[f"{line.kind}-{way}"][port.ifindex] = name
        unclaimed = view.unclaimed(ports)
        before, after = "" if self._founded(view) else text.foundation(), ""
        for where, right in wanted.items():
            there = nft.mapped(self._tables.of().objects(where))
            # A hook has led vifs of VMs that are not known here yet.
            led = right | {index: name for index, name in there.items() if index in unclaimed and name in lines}
            wrong = [index for index, name in there.items() if led.get(index) != name or name in gone]
            before += text.loosen(where, wrong)
            after += text.lead(
                where, {index: name for index, name in led.items() if there.get(index) != name or index in wrong}
            )
        return before, after

    def _founded(self, view: View) -> bool:
        chains = view.chains
        return all(name in chains and len(chains[name].rules) == len(rules) for name, rules in text.RULES.items())

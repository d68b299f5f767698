"""The flood alarm: the rates of all VMs, from the counters that each round reads, and who is told of a flood."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from xenbw.accounting import Tally
from xenbw.config import Settings
from xenbw.daemon.now import Now
from xenbw.judge import flood
from xenbw.judge.flood import SERIES, Flood, Rates, Series, Sums, Usual, Watch
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge
from xenbw.ledger import alarms
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.meters.metering import Metering
from xenbw.model import Amounts, Counters
from xenbw.tell import announcement
from xenbw.tell.alarm import Surge
from xenbw.tell.announcement import Announcement
from xenbw.tell.journal import NOTICE, about

log = logging.getLogger(__name__)

# Seconds between two looks. Where no counter moved, as between two runs of xentop, a look waits for so many.
_LOOK, _STILL = 0.95, 5.0
# Seconds until something is told again that the ledger did not take.
_AGAIN = 10.0
# Seconds that the ledger's sums of floods are behind at most.
_KEEP = 60.0
# Seconds for which a VM without vifs is remembered: one that floods may be started again.
_REMEMBER = 3600.0
_NONE = Rates(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


class Floods:
    """What is usual for each VM, in memory, and the floods that were told and are not over."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        tally: Tally,
        metering: Metering,
        roster: Roster,
        judge: Judge,
        now: Now,
    ) -> None:
        self.settings, self._ledger, self._tally, self._metering = settings, ledger, tally, metering
        self._roster, self._judge, self._now = roster, judge, now
        self._reads, self._kept_at, self._failed_at = 0, 0.0, float("-inf")
        self._looked_at: float | None = None
        self._before: dict[int, tuple[Amounts, Counters | None]] = {}
        self._seen_at: dict[int, float] = {}
        self._watches = dict(_restored(alarms.told(ledger, alarms.FLOODS)))
        self._resumed = set(self._watches)  # floods that began before this daemon's start

    @property
    def open(self) -> list[str]:
        """The names of the VMs that flood now."""
        entries = self._roster.entries
        return sorted(
            entries[vm_id].vm.name
            for vm_id, watch in self._watches.items()
            if watch.flood is not None and vm_id in entries
        )

    def look(self) -> None:
        """Compare the counters with those of the last look, if there was a reading since, and tell of floods that
        began or ended. Raises LedgerError; what could not be told is told at a later look."""
        elapsed, last = self._now.tick.elapsed, self._looked_at
        seconds = _STILL if last is None else elapsed - last
        if self._metering.reads == self._reads or seconds < _LOOK:
            return
        rates = self._rates(seconds)
        if rates is None and seconds < _STILL:
            return
        self._reads, self._looked_at = self._metering.reads, elapsed
        if last is None:
            return  # what passed since the last daemon's last reading
        self._seen_at.update(dict.fromkeys((one.vm_id for one in self._tally.tracked.values()), elapsed))
        try:
            self._take(rates or {}, seconds, elapsed)
        finally:
            self._forget(elapsed)

    def _rates(self, seconds: float) -> dict[int, Rates] | None:
        """The rates by VM since the last look; None if no counter moved."""
        packets, now = self._metering.meter.packets, dict[int, tuple[Amounts, Counters | None]]()
        found: dict[int, list[Rates]] = {}
        moved = self._before.keys() != self._tally.tracked.keys()
        for id_, tracked in self._tally.tracked.items():
            now[id_] = read = tracked.counted, packets.get(id_)
            before = self._before.get(id_)
            moved = moved or before != read
            rates = _NONE if before is None or before == read else _between(before, read, seconds)
            found.setdefault(tracked.vm_id, []).append(rates)
        if not moved:
            return None
        self._before = now
        return {vm_id: rates[0] if len(rates) == 1 else flood.total(rates) for vm_id, rates in found.items()}

    def _take(self, rates: Mapping[int, Rates], seconds: float, elapsed: float) -> None:
        pps, failure = self.settings.alert.pps, None
        innocent = flood.innocent(self._watches, rates, pps)
        for vm_id in rates.keys() | self._watches.keys():
            before = self._watches.get(vm_id, Watch())
            after = flood.step(before, rates.get(vm_id, _NONE), seconds, pps, blamed=vm_id not in innocent)
            if (before.flood is None) is not (after.flood is None):
                if elapsed - self._failed_at < _AGAIN:
                    continue
                try:
                    self._tell(vm_id, before.flood, after.flood)
                except LedgerError as error:
                    self._failed_at, failure = elapsed, error
                    continue
            self._watches[vm_id] = after
        if failure is not None:
            raise failure
        if elapsed - self._kept_at >= _KEEP:
            self._keep()

    def _tell(self, vm_id: int, before: Flood | None, after: Flood | None) -> None:
        """A flood began (after) or ended (before). One of a VM that was removed meanwhile is told no more. Raises
        LedgerError."""
        entry, at = self._roster.entries.get(vm_id), self._now.moment.at
        told: Announcement | None = None
        with self._ledger.transaction():
            if entry is not None:
                case = self._judge.case(entry, None, at)
                if after is not None:
                    told = announcement.flood_began(case, _surge(after, whole=True))
                elif before is not None:
                    told = announcement.flood_ended(case, _surge(before, whole=vm_id not in self._resumed))
            if told is not None:
                self._judge.announce(told, vm_id, at)
            self._keep({vm_id: after})
        if told is not None and entry is not None:
            log.log(NOTICE, "%s", told.text, extra=about(told.kind, entry.vm.name))
        if after is None:
            self._resumed.discard(vm_id)

    def _keep(self, changed: Mapping[int, Flood | None] = MappingProxyType({})) -> None:
        """Write the open floods into the ledger. changed: those that differ from the watches. Raises LedgerError."""
        floods = {**{vm_id: watch.flood for vm_id, watch in self._watches.items()}, **changed}
        stored = {str(vm_id): _stored(found) for vm_id, found in floods.items() if found is not None}
        if stored or alarms.told(self._ledger, alarms.FLOODS):
            alarms.keep(self._ledger, alarms.FLOODS, stored)
        self._kept_at = self._now.tick.elapsed

    def _forget(self, elapsed: float) -> None:
        """Forget VMs that were removed, or had no vif for long, unless they flood."""
        gone = {
            vm_id
            for vm_id, watch in self._watches.items()
            if watch.flood is None
            and (vm_id not in self._roster.entries or elapsed - self._seen_at.get(vm_id, elapsed) > _REMEMBER)
        }
        for vm_id in gone:
            del self._watches[vm_id]
            self._seen_at.pop(vm_id, None)


def _between(before: tuple[Amounts, Counters | None], now: tuple[Amounts, Counters | None], seconds: float) -> Rates:
    """The rates between two looks at a vif. Frames that a bridge flooded to it are not among them."""
    counted, earlier = now[0], before[0]
    into, out = _packets(before[1], now[1])
    refused_in = (counted.refused_in_bytes - earlier.refused_in_bytes) / seconds
    refused_out = (counted.refused_out_bytes - earlier.refused_out_bytes) / seconds
    return Rates(
        (counted.in_bytes - earlier.in_bytes) / seconds + refused_in,
        (counted.out_bytes - earlier.out_bytes) / seconds + refused_out,
        refused_in,
        refused_out,
        None if into is None else into / seconds,
        None if out is None else out / seconds,
    )


def _packets(before: Counters | None, now: Counters | None) -> tuple[int, int] | tuple[None, None]:
    """The packets in and out between two looks. Counters that fell began again at zero, and say nothing this time."""
    if now is None:
        return None, None
    if before is None or now.in_bytes < before.in_bytes or now.out_bytes < before.out_bytes:
        return 0, 0
    return now.in_bytes - before.in_bytes, now.out_bytes - before.out_bytes


def _surge(found: Flood, *, whole: bool) -> Surge:
    upto = found.upto
    packets = None if upto.packets is None else round(upto.packets)
    usual = found.usual if (found.series.unit == "packets") is (packets is not None) else None
    return Surge(found.series.way, upto.seconds, packets, round(upto.bytes), round(upto.refused_bytes), usual, whole)


def _stored(found: Flood) -> dict[str, Any]:
    return {"series": found.series, "limit": found.limit, "usual": found.usual, "upto": found.upto}


def _restored(told: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[int, Watch]]:
    for vm_id, facts in told.items():
        try:
            series, upto = Series(*facts["series"]), Sums(*facts["upto"])
            usual = None if facts["usual"] is None else float(facts["usual"])
            if series in SERIES:
                yield int(vm_id), Watch(Usual(), flood=Flood(series, float(facts["limit"]), usual, upto, upto))
        except (KeyError, TypeError, ValueError):
            continue  # a damaged value: that flood is told once more

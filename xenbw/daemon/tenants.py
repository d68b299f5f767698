"""The daemon's notices to tenants: which guest's nodes in xenstore are written when. The loop chooses and computes the
values; a thread writes them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from xenbw.accounting import Tally
from xenbw.daemon.now import Now
from xenbw.judge.roster import Roster
from xenbw.model import ZERO, Entry
from xenbw.report import notice
from xenbw.tell.complaints import Complaints
from xenbw.vifs.census import Census
from xenbw.xen.notices import Notice, Notices

# Seconds after which a guest's nodes are written again, and in which those of all guests are at most.
_AGAIN, _ALL = 60.0, 30.0
# So many guests are written at once in any case.
_FEW = 20


@dataclass(frozen=True)
class _Told:
    """What a guest was last told, and at how many seconds of uptime. headline None: nothing; its nodes were removed."""

    elapsed: float
    headline: tuple[object, ...] | None


class Tenants:
    """Writes the nodes of the guests whose VMs somebody added, or of all with [default] enforce."""

    def __init__(
        self, census: Census, roster: Roster, tally: Tally, now: Now, complaints: Complaints, notices: Notices
    ) -> None:
        self._census, self._roster, self._tally, self._now = census, roster, tally, now
        self._complaints, self._notices = complaints, notices
        self._told: dict[int, _Told] = {}
        self._elapsed = 0.0

    def tell(self, *, on: bool) -> None:
        """Have nodes written that are old or whose headline changed, and nodes removed that nobody is to read. on:
        False removes all. Never waits."""
        self._complaints.of("xenstore nodes of guests", self._notices.problem)
        at, elapsed = self._now.moment.at, self._now.tick.elapsed
        present = self._present(on=on)
        offers: dict[int, Notice | None] = {domid: None for domid in self._told.keys() - present.keys()}
        for domid in offers:
            del self._told[domid]
        for domid in self._due(present, elapsed):
            entry = present[domid]
            self._told[domid] = _Told(elapsed, _headline(entry))
            offers[domid] = None if entry is None else self._notice(entry, at)
        self._elapsed = elapsed
        self._notices.offer(offers)

    def _notice(self, entry: Entry, at: datetime) -> Notice:
        return Notice(entry.vm.name, notice.values(entry, self._tally.usage.get(entry.vm.id, ZERO), at))

    def _present(self, *, on: bool) -> dict[int, Entry | None]:
        """The VM of each domain with a vif here; None for a VM whose guest is told nothing."""
        found: dict[int, Entry | None] = {}
        for binding in self._census.bound:
            entry = self._roster.entries.get(binding.vm_id)
            found[binding.domid] = entry if on and entry is not None and entry.enforced else None
        return found

    def _due(self, present: dict[int, Entry | None], elapsed: float) -> list[int]:
        """The domains to write now: first those whose headline changed, then those that were told longest ago. After
        the daemon's start all are due, so there is a limit."""
        changed, old = [], []
        for domid, entry in present.items():
            told = self._told.get(domid)
            if told is None:
                old.append((-_AGAIN, domid))
            elif told.headline != _headline(entry):
                changed.append(domid)
            elif entry is not None and elapsed - told.elapsed >= _AGAIN:
                old.append((told.elapsed, domid))
        most = max(_FEW, round(len(present) * (elapsed - self._elapsed) / _ALL))
        return [*changed, *(domid for _, domid in sorted(old))][:most]

    def close(self) -> None:
        """Stop writing; what is written stays."""
        self._notices.close()


def _headline(entry: Entry | None) -> tuple[object, ...] | None:
    return None if entry is None else notice.headline(entry)

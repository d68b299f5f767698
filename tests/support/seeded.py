"""A host with VMs and thirteen months of traffic, the same each time: for pictures, and for tests of the pages."""

from __future__ import annotations

import math
import random
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from tests.support.books import add_vm, start_vif
from tests.support.clock import HandClock
from tests.support.console import Console, StandIn
from xenbw import config
from xenbw.accounting import Pending, Share, hour_of
from xenbw.cli import htmlreport, links
from xenbw.cli.command import Context
from xenbw.clock import boot_id
from xenbw.ledger import blocklog, usagelog
from xenbw.ledger.ledger import Alive, Ledger, to_text
from xenbw.model import Amounts, Cause, Cell, Count, Counters, Span, State
from xenbw.quota import period_at, used_bytes
from xenbw.runner import run
from xenbw.units import format_size

NOW = datetime(2026, 11, 18, 21, 35, 10, tzinfo=UTC)
GB = 10**9
HOSTILE = "<b onclick=x()>co</b> &amp; </title><script>document.title=0</script>"
_ZONE, _HOUR, _FIVE = ZoneInfo("UTC"), timedelta(hours=1), timedelta(minutes=5)


@dataclass(frozen=True)
class Guest:
    """A VM. in_rate, out_rate: bytes in a typical hour. grown: how much more this month brings than those before.
    stops: hours ago when its traffic ended. If it uses up its limit, it is held there."""

    name: str
    in_rate: float
    out_rate: float
    settings: dict[str, Any] = field(default_factory=dict)
    grown: float = 1
    running: bool = True
    stops: int = 0


GUESTS = (
    Guest("shop-frontend", 0.28 * GB, 1.15 * GB, {"limit_bytes": 800 * GB}),
    Guest("mirror", 0.9 * GB, 6.2 * GB, {"limit_bytes": 1500 * GB}, grown=2.8),
    Guest("db-replica", 0.55 * GB, 0.2 * GB, {"limit_bytes": 160 * GB, "count": "in"}),
    Guest("mail", 0.08 * GB, 0.06 * GB, {"limit_bytes": 250 * GB}),
    Guest("video-7", 0.3 * GB, 3.1 * GB, {"limit_bytes": 800 * GB, "action": "throttle", "rate": 5_000_000}),
    Guest("ci-runner-with-a-rather-long-name-of-its-own-01", 0.7 * GB, 0.12 * GB, {}),
    Guest("staging", 0.02 * GB, 0.01 * GB, {"limit_bytes": 100 * GB}, running=False, stops=200),
    Guest(HOSTILE, 0.05 * GB, 0.02 * GB, {"limit_bytes": 100 * GB}),
    Guest("new", 0, 0, {"limit_bytes": 500 * GB}),
)


def fill(ledger: Ledger, guests: tuple[Guest, ...] = GUESTS, now: datetime = NOW) -> None:
    """Fill an empty ledger with the guests and their traffic up to `now`."""
    draw, period = random.Random(7), period_at(now, 1, _ZONE)
    for domid, guest in enumerate(guests, 1):
        vm_id = add_vm(ledger, guest.name, now - timedelta(days=400), **guest.settings)
        if guest.running:
            facts: dict[str, Any] = {
                "mac": f"00:16:3e:00:00:{domid % 256:02x}",
                "ips": f"192.0.2.{domid % 256}",
                "bridge": "xenbr0",
            }
            start_vif(ledger, guest.name, now - timedelta(days=9), domid=domid, boot_id=boot_id(), **facts)
        held = _traffic(ledger, vm_id, guest, now, draw) if guest.in_rate else None
        if held is not None and guest.settings.get("action") != "throttle":
            reason = f"used up its allowance of {format_size(_limit(guest))}"
            blocklog.block(ledger, vm_id, Cause.QUOTA, reason, held, period.end)
            ledger.set_vm(vm_id, state=State.OVER, state_since=held)
    with ledger.transaction() as db:
        db.execute("UPDATE vm SET period_start = ?, period_rule = '1@UTC'", (to_text(period.start),))


def _limit(guest: Guest) -> int:
    limit = guest.settings.get("limit_bytes")
    return limit if isinstance(limit, int) else 10**18


def _traffic(ledger: Ledger, vm_id: int, guest: Guest, now: datetime, draw: random.Random) -> datetime | None:
    """The VM's traffic. Returns when it used up its limit, if it did."""
    end, held, used, start = now - guest.stops * _HOUR, None, 0, period_at(now, 1, _ZONE).start
    shares, cells, hour = [], [], hour_of(now) - 40 * 24 * _HOUR
    while hour < end and (held is None or guest.settings.get("action") == "throttle"):
        factor = _factor(hour, draw) / (4 if held else guest.grown if hour < start else 1)
        parts = _minutes(hour, min(end, hour + _HOUR), guest, factor, draw)
        usage = sum(c.amounts.in_bytes for c in parts), sum(c.amounts.out_bytes for c in parts)
        used += used_bytes(Count(guest.settings.get("count", "total")), Counters(*usage)) if hour >= start else 0
        if held is None and used > _limit(guest):
            held, usage = hour + _HOUR / 2, (usage[0], usage[1] - (used - _limit(guest)))
        cells += parts if now - hour < 26 * _HOUR else []
        shares.append((vm_id, Share(period_at(hour, 1, _ZONE).start, hour, *usage, 0)))
        hour += _HOUR
    start = period_at(hour_of(now) - 41 * 24 * _HOUR, 1, _ZONE).start
    for month in range(11):
        # Half of the first month has its hours already.
        hours = 250 if month == 0 else 720
        size = hours * (0.55 - 0.02 * month) * draw.uniform(0.75, 1.1) / guest.grown
        shares.append((vm_id, Share(start, start, round(guest.in_rate * size), round(guest.out_rate * size), 0)))
        start = period_at(start - _HOUR, 1, _ZONE).start
    alive = Alive(now, 1000.0, boot_id())
    usagelog.commit(ledger, Pending((), tuple(shares), (), tuple((vm_id, cell) for cell in cells)), alive)
    return held


def _factor(hour: datetime, draw: random.Random) -> float:
    """How busy an hour is: most in the evening, less at weekends."""
    day = 0.62 + 0.5 * math.sin((hour.hour - 13) / 24 * 2 * math.pi)
    return day * (0.72 if hour.weekday() >= 5 else 1) * draw.uniform(0.85, 1.2)


def _minutes(hour: datetime, end: datetime, guest: Guest, factor: float, draw: random.Random) -> list[Cell]:
    cells, at = [], hour
    while at < end:
        busy = factor / 12 * draw.uniform(0.7, 1.3) * (2.6 if draw.random() < 0.02 else 1)
        cells.append(Cell(Span.FIVE_MINUTES, at, Amounts(round(guest.in_rate * busy), round(guest.out_rate * busy))))
        at += _FIVE
    return cells


class Host:
    """A seeded host in an empty folder, at a moment that the test moves. Its pages are in the folder `site`.

    ledger: the file of a ledger that was filled before, to save the time.
    """

    def __init__(self, root: Path, guests: tuple[Guest, ...] = GUESTS, ledger: Path | None = None) -> None:
        self.console, self.clock, self.folder = Console(root), HandClock(NOW), root / "site"
        if ledger is None:
            with self.console.ledger() as made:
                fill(made, guests)
        else:
            self.console.ledger_path.parent.mkdir()
            shutil.copy(ledger, self.console.ledger_path)

    @property
    def context(self) -> Context:
        return Context(config.load(self.console.config), run, self.clock)

    def write(self) -> int:
        """Write the pages, as `xenbw report --html` does. Returns how many files were written."""
        return htmlreport.write(self.folder, self.context)[0]

    def stem(self, vm: str) -> str:
        """The name of the files for the VM's tenant."""
        return links.stem(links.key_of(links.key_path(self.console.ledger_path)), self.console.vm(vm))


def write_pages(root: Path, guests: tuple[Guest, ...] = GUESTS) -> Host:
    """A host with a daemon, whose pages are written."""
    host = Host(root, guests)
    with StandIn(host.console):
        host.write()
    return host

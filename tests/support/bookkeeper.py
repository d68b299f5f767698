"""A ledger filled with traffic, and its thread for the book; it can check that book and ledger agree."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from tests.support.books import BOOT, add_vm, open_ledger, start_vif
from tests.support.clock import HandClock, utc
from tests.support.mongoaccess import KEEPER
from tests.support.mongod import Mongod
from tests.support.replicaset import ReplicaSet
from xenbw.accounting import Pending, Share, cell_start
from xenbw.book.sync import Sync
from xenbw.config import HostSection, LedgerSection, MongodbSection, Settings
from xenbw.errors import XenbwError
from xenbw.ledger import usagelog, viflog
from xenbw.ledger.ledger import Alive
from xenbw.model import Amounts, Cell, Counters, Mark, Span

NOW = utc("2026-03-20 12:00")
MARCH = utc("2026-03-01")


def settings_of(ledger: Path, uri: str, host: str = "dom0-a", **section: Any) -> Settings:
    """The configuration of a dom0. `section`: more keys of [mongodb]."""
    # Keep samples and values long: the server deletes expired ones by its own clock.
    book = MongodbSection(**{"uri": uri, "database": KEEPER.database, "keep_samples": 3650, **section})
    kept = LedgerSection(path=ledger, keep_minutes=3650, keep_hours=3650)
    return Settings(mongodb=book, ledger=kept, host=HostSection(name=host))


class Books:
    """A dom0 with VMs web0, web1 and so on, with one vif each. `live` lets time and traffic pass, `sync.push()` pushes
    it to the book. `section`: more keys of [mongodb]."""

    def __init__(self, folder: Path, uri: str, host: str = "dom0-a", *, vifs: int = 10, **section: Any) -> None:
        self.ledger = open_ledger(folder, patience=5)
        self.clock = HandClock(NOW)
        self.settings = settings_of(self.ledger.path, uri, host, **section)
        self.vms = [add_vm(self.ledger, f"web{n}", NOW, limit_bytes=10**12) for n in range(vifs)]
        self.bindings = [start_vif(self.ledger, f"web{n}", NOW, domid=n + 1) for n in range(vifs)]
        for vm_id in self.vms:
            self.ledger.set_vm(vm_id, period_start=MARCH, period_rule="1@UTC")
        self.total = 0
        self.sync = Sync(self.settings, self.clock)

    def live(self, minutes: int) -> None:
        """Let `minutes` of traffic pass, with a sample and a commit each minute."""
        for _ in range(minutes):
            self.clock.go(minutes=1)
            self.total += 1
            at = self.clock.wall
            raw = Counters(self.total * 1000, self.total * 100)
            hour = at.replace(minute=0, second=0)
            usagelog.commit(
                self.ledger,
                Pending(
                    tuple((b.id, Amounts(*raw), Mark(raw), at) for b in self.bindings),
                    tuple((vm_id, Share(MARCH, hour, 1000, 100, 0)) for vm_id in self.vms),
                    cells=tuple((vm_id, self._cell(at)) for vm_id in self.vms),
                ),
                Alive(at, 1000.0, BOOT),
            )
            usagelog.add_readings(self.ledger, [(b.id, raw, raw) for b in self.bindings], at)

    @staticmethod
    def _cell(at: datetime) -> Cell:
        return Cell(Span.FIVE_MINUTES, cell_start(at), Amounts(1000, 100, 10, 2, 1))

    def come_and_go(self, vm: int, times: int) -> None:
        """Add more lives of a vif to the VM at that index: five seconds each, without traffic."""
        for _ in range(times):
            (known,) = self.ledger.rows("SELECT count(*) FROM binding")[0]
            binding = start_vif(self.ledger, f"web{vm}", self.clock.wall, domid=1000 + known, ips="192.0.2.7")
            self.clock.go(seconds=5)
            viflog.end(self.ledger, binding.id, self.clock.wall, "offline")

    def agrees(self, database: Any) -> bool:
        """Whether the book has the same records as the ledger."""
        hours = {
            (row["vm"], row["start"]): (row["in_bytes"], row["out_bytes"])
            for row in database.usage.find({"span": "hour"})
        }
        expected = {}
        for number, vm_id in enumerate(self.vms):
            for hour, usage in usagelog.hours(self.ledger, vm_id, MARCH):
                expected[f"web{number}", hour] = tuple(usage)
        whole = {row["vm"]: row["in_bytes"] for row in database.usage.find({"span": "period"})}
        days: dict[str, int] = {}
        for row in database.usage.find({"span": "day"}):
            days[row["vm"]] = days.get(row["vm"], 0) + row["in_bytes"]
        samples = database.samples.count_documents({})
        (kept,) = self.ledger.rows("SELECT count(*) FROM reading")[0]
        bound = {row["vm"]: row["in_bytes"] for row in database.bindings.find()}
        each = dict.fromkeys((f"web{n}" for n in range(len(self.vms))), self.total * 1000)
        return hours == expected and whole == days == bound == each and samples == kept


def base(server: Mongod | ReplicaSet) -> Any:
    """The book's database on a server."""
    return server.client(tz_aware=True)[KEEPER.database]


def pushes(books: Books) -> bool:
    """Whether the next push succeeds."""
    try:
        books.sync.push()
    except XenbwError:
        return False
    return True

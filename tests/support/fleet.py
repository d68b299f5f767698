"""A host that shares a book with other hosts."""

from __future__ import annotations

from pathlib import Path

from tests.support.books import open_ledger
from tests.support.clock import HandClock, utc
from tests.support.mongoaccess import KEEPER
from xenbw.accounting import Pending, Share
from xenbw.book.sync import Sync
from xenbw.clock import Moment
from xenbw.config import HostSection, LedgerSection, MongodbSection, Settings
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge
from xenbw.ledger import usagelog
from xenbw.ledger.ledger import Alive
from xenbw.model import VM, State

NOW = utc("2026-03-20 12:00")
MARCH = utc("2026-03-01")
GB = 10**9


class Dom0:
    """A host of the fleet: its ledger, and its book thread, run step by step."""

    def __init__(self, name: str, folder: Path, uri: str) -> None:
        folder.mkdir()
        self.clock = HandClock(NOW)
        self.ledger = open_ledger(folder, patience=5)
        self.settings = Settings(
            host=HostSection(name=name),
            ledger=LedgerSection(path=self.ledger.path),
            mongodb=MongodbSection(uri=uri, database=KEEPER.database),
        )
        self.sync = Sync(self.settings, self.clock)

    def add(self, name: str, **values: object) -> None:
        vm = self.ledger.meet(name, self.clock.wall)
        self.ledger.set_vm(vm.id, added_at=self.clock.wall, period_start=MARCH, period_rule="1@UTC", **values)

    def sees(self, name: str) -> None:
        """A VM that was not added on this host runs here."""
        vm = self.ledger.meet(name, self.clock.wall)
        self.ledger.set_vm(vm.id, period_start=MARCH, period_rule="1@UTC")

    def vm(self, name: str) -> VM:
        vm = self.ledger.vm_named(name)
        assert vm is not None
        return vm

    def uses(self, name: str, amount: int) -> None:
        share = Share(MARCH, self.clock.wall.replace(minute=0), amount, 0, 0)
        usagelog.commit(self.ledger, Pending((), ((self.vm(name).id, share),)), Alive(self.clock.wall, 1000.0, "boot"))

    def judged(self, name: str) -> State:
        roster = Roster(self.ledger, self.settings)
        moment = Moment(self.clock.wall, True)
        roster.load(moment)
        Judge(self.ledger, self.settings).judge(roster, roster.usage(), list(roster.entries), moment)
        return self.vm(name).state

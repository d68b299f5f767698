"""A host with one VM that is judged and held to its allowance, with a stand-in for the kernel."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address

from tests.support.books import BOOT, add_vm, start_vif
from tests.support.clock import utc
from xenbw.blocks.block import Outcome, Wanted
from xenbw.clock import Moment
from xenbw.config import Settings
from xenbw.enforce.desired import Present
from xenbw.enforce.reconcile import Reconciler
from xenbw.errors import XenbwError
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge
from xenbw.ledger import eventlog, outbox
from xenbw.ledger.ledger import Ledger
from xenbw.model import Address, Counters
from xenbw.rundir import overfile

NOW = utc("2026-03-20 12:00")
END = utc("2026-04-01")
IP = ip_address("192.0.2.7")
IP6 = ip_address("2001:db8::7")


@dataclass
class MethodStandIn:
    """Stands in for a real block, which needs a kernel: keeps what it was asked to make so."""

    name: str = "stand-in"
    asked: list[dict[Address, str]] = field(default_factory=list)
    fails: str | None = None

    def probe(self) -> str | None:
        return self.fails

    def apply(self, wanted: Wanted) -> Outcome:
        if self.fails:
            raise XenbwError(self.fails)
        before = self.asked[-1] if self.asked else {}
        self.asked.append(dict(wanted.null_routes))
        return Outcome(tuple(f"{name}: {address}" for address, name in _ordered(wanted) if address not in before))


def _ordered(wanted: Wanted) -> list[tuple[Address, str]]:
    return sorted(wanted.null_routes.items(), key=lambda route: (route[0].version, int(route[0])))


@dataclass
class Host:
    """A host with one VM, web1, with 1000 bytes in March; the test sets time and usage."""

    ledger: Ledger
    settings: Settings
    method: MethodStandIn
    usage: dict[int, Counters] = field(default_factory=dict)
    at: datetime = NOW

    def __post_init__(self) -> None:
        self.web1 = add_vm(self.ledger, "web1", NOW, limit_bytes=1000)
        start_vif(self.ledger, "web1", NOW, domid=1, ips=f"{IP} {IP6}")
        self.restart()

    def restart(self) -> None:
        self.roster = Roster(self.ledger, self.settings)
        self.judging = Judge(self.ledger, self.settings)
        self.reconciler = Reconciler(self.ledger, self.settings, self.judging, [self.method], BOOT)
        self.roster.load(self.moment)

    @property
    def moment(self) -> Moment:
        return Moment(self.at, True)

    def judge(self, used: int | None = None) -> bool:
        """Set the total usage of web1; the admin may have changed the ledger in the meantime."""
        if used is not None:
            self.usage[self.web1] = Counters(used, 0)
        self.roster.load(self.moment)
        return self.judging.judge(self.roster, self.usage, list(self.roster.entries), self.moment)

    def enforce(self) -> list[str]:
        return self.reconciler.reconcile(self.roster, self.usage, self.moment, Present())

    def new_period(self) -> None:
        self.at = END
        self.roster.roll(self.moment)
        self.usage.clear()

    def events(self) -> list[str]:
        return [kind for _, kind, _ in reversed(eventlog.newest(self.ledger, 100))]

    def mails(self) -> list[str]:
        return [
            message.subject.removeprefix("[xenbw] web1: ")
            for message in outbox.due(self.ledger, self.at, self.at + timedelta(hours=1))
        ]

    def over_file(self) -> overfile.Over:
        found = overfile.read(str(self.settings.daemon.run_dir / "over"))
        assert found is not None
        return found

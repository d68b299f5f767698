"""The flood alarm of the daemon: from counters of vifs to events and messages, with a clock that the test sets."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.books import add_vm, start_vif
from tests.support.clock import HandClock, utc
from xenbw.accounting import Tally
from xenbw.clock import Timeline
from xenbw.config import AlertSection, CommandSection, DaemonSection, LedgerSection, MailSection, Settings
from xenbw.daemon.floods import Floods
from xenbw.daemon.now import Now
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge
from xenbw.ledger import alarms, eventlog, outbox
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.ledger.outbox import Channel
from xenbw.model import Amounts, Counters

NOW = utc("2026-03-20 12:00")


class Host:
    """A host with the VMs web1 and web2; the test says what passes their vifs."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self.ledger, self.settings = ledger, settings
        self.clock = HandClock(NOW, 100_000)
        self.tally, self.metering = Tally(), SimpleNamespace(reads=0, meter=SimpleNamespace(packets={}))
        self.ids, self.knows_packets = {}, True
        for domid, name in enumerate(("web1", "web2"), 1):
            self.ids[name] = add_vm(ledger, name, NOW)
            self.tally.follow(start_vif(ledger, name, NOW, domid=domid, ips=f"192.0.2.{domid}"), NOW)
        self.start()

    def start(self) -> None:
        """The daemon starts, also after being killed."""
        self.now = Now(self.clock, Timeline(NOW, None, 0.0, self.clock.vouches), self.tally, 0.0)
        self.roster, self.judge = Roster(self.ledger, self.settings), Judge(self.ledger, self.settings)
        self.roster.load(self.now.moment)
        metering: Any = self.metering
        self.floods = Floods(self.settings, self.ledger, self.tally, metering, self.roster, self.judge, self.now)
        self.read({})

    def read(self, passed: dict[str, tuple[Amounts, Counters]]) -> None:
        """The counters are read, with these bytes and packets more since the last time."""
        more = {self.ids[name]: read for name, read in passed.items()}
        for id_, tracked in self.tally.tracked.items():
            amounts, count = more.get(tracked.vm_id, (Amounts(0, 0), Counters(0, 0)))
            tracked.counted = tracked.counted.plus(amounts)
            before = self.metering.meter.packets.get(id_, Counters(0, 0))
            self.metering.meter.packets[id_] = before.plus(count)
        if not self.knows_packets:
            self.metering.meter.packets.clear()
        self.metering.reads += 1
        self.now.look()
        self.floods.look()

    def go(self, seconds: int, packets: int = 0, name: str = "web1", *, refused: bool = False) -> None:
        """So many seconds pass, with so many packets of 60 bytes from the VM in each, and a few of everybody."""
        for _ in range(seconds):
            self.clock.go(seconds=1)
            size = packets * 60
            much = Amounts(600, 0 if refused else size, refused_out_bytes=size if refused else 0)
            few = dict.fromkeys(self.ids, (Amounts(600, 600), Counters(10, 10)))
            self.read({**few, name: (much, Counters(10, packets))} if packets else few)

    def events(self) -> list[str]:
        return [text for _, kind, text in reversed(eventlog.newest(self.ledger, 100)) if kind.startswith("flood")]


@pytest.fixture
def host(ledger: Ledger, tmp_path: Path) -> Host:
    return Host(
        ledger,
        Settings(
            daemon=DaemonSection(run_dir=tmp_path / "run"),
            ledger=LedgerSection(path=ledger.path),
            mail=MailSection(to=("noc@example.com",)),
            command=CommandSection(run=("/bin/true",)),
        ),
    )


def test_a_flood_is_told_once_at_its_start_and_once_at_its_end_with_the_sum(host: Host) -> None:
    host.go(60)
    host.go(120, 43_000)
    began = "web1 floods: sends 43,000 packets/s (2.58 MB/s), usually 10 packets/s"
    assert host.events() == [began]
    host.go(40)
    assert host.events() == [began, "web1 floods no longer: sent 5,160,000 packets (310 MB) in 2 min"]
    messages = outbox.due(host.ledger, host.clock.wall, host.clock.wall + timedelta(hours=1))
    assert [one.subject for one in messages if one.channel is Channel.MAIL] == [
        "[xenbw] web1: flood from it",
        "[xenbw] web1: flood is over",
    ]
    first, last = (json.loads(one.body) for one in messages if one.channel is Channel.COMMAND)
    assert (first["kind"], first["vm"], first["flood"]["direction"]) == ("flood-began", "web1", "out")
    assert (last["kind"], last["addresses"]) == ("flood-ended", ["192.0.2.1"])
    sums = {"packets": 5_160_000, "bytes": 309_600_000, "refused_bytes": 0}
    assert last["flood"] == {"direction": "out", "seconds": 120, **sums}


def test_a_blocked_vm_that_goes_on_sending_is_told_with_what_is_refused(host: Host) -> None:
    host.go(60)
    host.go(10, 43_000, refused=True)
    host.go(31)
    assert host.events() == [
        "web1 floods: sends 43,000 packets/s (2.58 MB/s), usually 10 packets/s; 2.58 MB/s refused",
        "web1 floods no longer: sent 430,000 packets (25.8 MB) in 10 s; 25.8 MB refused",
    ]


def test_a_restart_in_a_flood_tells_it_no_second_time_and_its_end_once(host: Host) -> None:
    host.go(60)
    host.go(70, 43_000)
    for _ in range(3):
        host.start()
        host.go(5, 43_000)
    assert len(host.events()) == 1
    assert host.floods.open == ["web1"]
    host.go(31)
    (_, ended) = host.events()
    assert ended.startswith("web1 floods no longer: sent at least 2,967,000 packets")
    host.start()
    host.go(60)
    assert len(host.events()) == 2
    assert alarms.told(host.ledger, alarms.FLOODS) == {}


def test_a_flood_that_ended_with_its_daemon_is_over_after_the_restart(host: Host) -> None:
    host.go(60)
    host.go(5, 43_000)
    host.start()
    host.go(31)
    assert [text.split(":")[0] for text in host.events()] == ["web1 floods", "web1 floods no longer"]


@pytest.mark.parametrize("value", ["", "no json", "[]", '{"1": 5}', '{"1": {}}', '{"x": {"series": ["a", "b"]}}'])
def test_a_damaged_value_in_the_ledger_stops_nothing(host: Host, value: str) -> None:
    host.ledger.set_meta(alarms.FLOODS, value)
    host.start()
    host.go(60)
    host.go(5, 43_000)
    assert len(host.events()) == 1


def test_what_passed_while_no_daemon_ran_is_no_flood(host: Host) -> None:
    host.settings = replace(host.settings, alert=AlertSection(pps=1000))
    host.start()
    host.clock.go(hours=1)
    host.start()
    host.clock.go(seconds=1)
    host.read({"web1": (Amounts(0, 10**12), Counters(0, 10**9))})
    host.go(60)
    # The meter could not be read for a minute.
    for _ in range(60):
        host.clock.go(seconds=1)
        host.now.look()
        host.floods.look()
    host.clock.go(seconds=3)
    host.read({"web1": (Amounts(0, 600 * 60), Counters(0, 600 * 60))})
    assert host.events() == []


def test_frontends_that_reconnect_and_vifs_that_come_are_no_flood(host: Host) -> None:
    host.settings = replace(host.settings, alert=AlertSection(pps=1000))
    host.start()
    host.go(60, 900)
    for _ in range(5):
        host.metering.meter.packets = dict.fromkeys(host.metering.meter.packets, Counters(0, 0))
        host.go(1, 900)
    for domid in range(10, 15):
        binding = start_vif(host.ledger, "web1", NOW, domid=domid)
        host.metering.meter.packets[binding.id] = Counters(10**9, 10**9)
        host.tally.follow(replace(binding, counted=Amounts(10**12, 10**12)), NOW)
        host.go(1)
    assert host.events() == []


def test_a_frontend_that_reconnects_in_a_flood_takes_nothing_from_its_sum(host: Host) -> None:
    host.go(60)
    host.go(5, 43_000)
    host.metering.meter.packets = dict.fromkeys(host.metering.meter.packets, Counters(0, 0))
    host.go(5, 43_000)
    host.go(31)
    # The second in which it reconnected is known in bytes alone.
    assert host.events()[1] == "web1 floods no longer: sent 387,000 packets (25.8 MB) in 10 s"


def test_a_clock_that_is_set_is_no_flood_and_hides_none(host: Host) -> None:
    host.go(60, 3_000)
    for by in (timedelta(hours=-5), timedelta(days=40), timedelta(seconds=-30)):
        host.clock.wall += by
        host.go(3, 3_000)
    assert host.events() == []
    host.clock.wall += timedelta(days=-40)
    host.go(3, 43_000)
    assert len(host.events()) == 1


def test_frames_that_a_bridge_floods_to_a_vm_do_not_name_it(host: Host) -> None:
    host.go(60)
    for _ in range(10):
        host.clock.go(seconds=1)
        host.read({"web2": (Amounts(0, 0, flood_bytes=10**9), Counters(0, 0))})
    assert host.events() == []


def test_with_bytes_alone_a_flood_is_told_in_bytes(host: Host) -> None:
    host.knows_packets = False
    host.start()
    host.go(60)
    for second in range(60):
        host.clock.go(seconds=1)
        # xentop has news each two seconds.
        much = 4 * 10**8 if second % 2 else 0
        host.read({"web1": (Amounts(0, much), Counters(0, 0))})
    assert host.events() == ["web1 floods: sends 200 MB/s, usually 600 B/s"]


def test_a_vm_that_restarts_is_known_and_one_that_is_gone_is_forgotten(host: Host) -> None:
    host.go(60)
    host.tally.tracked.clear()
    host.clock.go(minutes=5)
    host.read({})
    host.tally.follow(start_vif(host.ledger, "web1", NOW, domid=9), NOW)
    host.go(1)
    host.go(4, 43_000)
    assert len(host.events()) == 1
    host.tally.tracked.clear()
    host.go(40)
    assert len(host.events()) == 2
    for _ in range(3):
        host.clock.go(hours=1)
        host.read({})
    floods = cast("Any", host.floods)
    assert (floods._watches, floods._before, floods._seen_at) == ({}, {}, {})


def test_a_flood_of_a_vm_that_was_removed_is_told_no_more(host: Host) -> None:
    host.go(60)
    host.go(5, 43_000)
    del host.roster.entries[host.ids["web1"]]
    host.tally.tracked.clear()
    host.go(40)
    assert len(host.events()) == 1
    assert alarms.told(host.ledger, alarms.FLOODS) == {}


def test_what_the_ledger_did_not_take_is_told_later(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise LedgerError("full")

    host.go(60)
    with monkeypatch.context() as broken:
        broken.setattr(host.ledger, "record", full)
        host.go(1, 43_000)
        with pytest.raises(LedgerError):
            host.go(1, 43_000)
        host.go(5, 43_000)
    assert host.events() == []
    host.go(10, 43_000)
    assert len(host.events()) == 1

"""The usage of every host counts towards a VM's allowance, and impossible usage in the book counts nowhere."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bson.int64 import Int64

from tests.support.fleet import GB, MARCH, NOW, Dom0
from tests.support.host import Host
from tests.support.mongoaccess import KEEPER
from tests.support.mongod import Mongod
from tests.support.pace import at_last, until
from xenbw.book.sync import Sync
from xenbw.clock import SystemClock
from xenbw.config import HostSection, LedgerSection, MongodbSection, Settings
from xenbw.ledger import shared, vmlog
from xenbw.model import Counters, State

pytestmark = pytest.mark.mongo


def test_usage_on_every_host_counts_towards_the_verdict(a: Dom0, b: Dom0) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.uses("web1", 3 * GB)
    a.sync.push()
    b.sees("web1")
    b.uses("web1", 2 * GB)
    b.sync.push()
    assert b.judged("web1") is State.WARNED
    b.uses("web1", 1)
    assert b.judged("web1") is State.OVER
    b.sync.push()
    a.sync.push()
    assert a.judged("web1") is State.OVER


def test_usage_of_a_vm_removed_elsewhere_is_not_charged_to_the_next_of_its_name(a: Dom0, b: Dom0) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.uses("web1", 4 * GB)
    a.sync.push()
    b.sees("web1")
    b.sync.push()
    assert b.judged("web1") is State.WARNED
    a.clock.go(minutes=1)
    b.clock.go(minutes=1)
    vmlog.retire(a.ledger, a.vm("web1").id, a.clock.wall)
    a.sync.push()
    b.clock.go(minutes=1)
    b.add("web1", limit_bytes=5 * GB)
    b.sync.push()
    assert b.judged("web1") is State.OK


def test_clocks_ninety_seconds_apart_lose_no_edit_and_no_byte(a: Dom0, b: Dom0) -> None:
    b.clock.go(seconds=90)
    a.add("web1", limit_bytes=5 * GB)
    a.uses("web1", GB)
    a.sync.push()
    b.sees("web1")
    b.uses("web1", GB)
    b.sync.push()
    a.ledger.set_vm(a.vm("web1").id, limit_bytes=6 * GB)
    a.sync.push()
    b.sync.push()
    assert b.vm("web1").limit_bytes == 6 * GB
    assert shared.elsewhere(b.ledger)[b.vm("web1").id][1] == Counters(GB, 0)


USAGE = {
    "_id": "dom0-x/web1/1/period/2026-03",
    "host": "dom0-x",
    "vm": "web1",
    "span": "period",
    "start": MARCH,
    "in_bytes": Int64(7),
    "out_bytes": Int64(8),
}
BEYOND = {"$toDate": 253_402_300_800_000}  # the year 10000, which Python's dates do not reach


@pytest.fixture
def usage(server: Mongod) -> Any:
    return server.client(tz_aware=True)[KEEPER.database].usage


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vm", ["web1"]),
        ("vm", ["web1", BEYOND]),
        ("start", [MARCH]),
        ("start", [MARCH, BEYOND]),
        ("in_bytes", [Int64(7)]),
        ("out_bytes", {"more": "of it"}),
        ("in_bytes", -1),
        ("in_bytes", 7.5),
        ("host", ["dom0-x"]),
        ("host", None),
    ],
)
def test_impossible_usage_is_named_and_left_out_and_all_other_usage_counts(
    field: str, value: object, a: Dom0, b: Dom0, usage: Any
) -> None:
    b.add("web1", limit_bytes=100)
    b.uses("web1", 60)
    b.sync.push()
    usage.insert_one(USAGE)
    usage.update_one({"_id": USAGE["_id"]}, [{"$set": {field: value}}])
    a.add("web1", limit_bytes=100)
    a.uses("web1", 50)
    a.sync.push()
    assert shared.elsewhere(a.ledger)[a.vm("web1").id][1] == Counters(60, 0)
    (fault,) = a.sync.faults
    assert USAGE["_id"] in fault
    assert f" an impossible {field};" in fault
    assert a.judged("web1") is State.OVER
    usage.delete_one({"_id": USAGE["_id"]})
    a.sync.push()
    assert a.sync.faults == []


def test_usage_that_can_no_longer_be_believed_releases_nobody(a: Dom0, b: Dom0, usage: Any) -> None:
    for dom0, used in ((b, 6 * GB), (a, 5 * GB)):
        dom0.add("web1", limit_bytes=10 * GB)
        dom0.uses("web1", used)
        dom0.sync.push()
    (_id,) = (one["_id"] for one in usage.find({"host": "dom0-b", "span": "period"}))
    for value in (-1, "60", Int64(2**63 - 1)):
        usage.update_one({"_id": _id}, {"$set": {"in_bytes": value}})
        a.sync.push()
        assert len(a.sync.faults) == 1
        assert shared.elsewhere(a.ledger)[a.vm("web1").id][1] == Counters(6 * GB, 0)
        assert a.judged("web1") is State.OVER
    usage.update_one({"_id": _id}, {"$set": {"in_bytes": Int64(2 * GB)}})
    a.sync.push()
    assert a.judged("web1") is State.OK


def test_a_ledger_that_was_put_back_from_a_copy_brings_its_changes_into_the_book(
    a: Dom0, usage: Any, tmp_path: Path
) -> None:
    a.add("web1", limit_bytes=100 * GB)
    a.uses("web1", GB)
    with closing(sqlite3.connect(tmp_path / "copy")) as copy, closing(sqlite3.connect(a.ledger.path)) as db:
        db.backup(copy)
    for _ in range(20):
        a.uses("web1", GB)
    a.sync.push()
    with closing(sqlite3.connect(tmp_path / "copy")) as copy, closing(sqlite3.connect(a.ledger.path)) as db:
        copy.backup(db)
    a.uses("web1", 3 * GB)
    for _ in range(2):
        a.sync.push()
        assert [one["in_bytes"] for one in usage.find({"vm": "web1", "span": "period"})] == [4 * GB]


def test_a_clock_that_is_behind_releases_nobody(a: Dom0, b: Dom0) -> None:
    for dom0, used in ((b, 60), (a, 50)):
        dom0.add("web1", limit_bytes=100)
        dom0.uses("web1", used)
        dom0.sync.push()
    assert a.judged("web1") is State.OVER
    a.clock.wall -= timedelta(days=4000)
    a.sync.push()
    assert a.sync.faults == []
    assert shared.elsewhere(a.ledger)[a.vm("web1").id][1] == Counters(60, 0)


def test_usage_of_a_vm_with_a_very_long_name_counts_on_every_host(a: Dom0, b: Dom0) -> None:
    name = "customer-" * 100
    for dom0, used in ((b, 60), (a, 50)):
        dom0.add(name, limit_bytes=100)
        dom0.uses(name, used)
        dom0.sync.push()
    assert shared.elsewhere(a.ledger)[a.vm(name).id][1] == Counters(60, 0)
    assert a.judged(name) is State.OVER


def test_usage_beyond_400_gigabits_a_second_is_named_and_left_out(a: Dom0, usage: Any) -> None:
    a.add("web1", limit_bytes=100)
    for number in range(2):
        usage.insert_one({**USAGE, "_id": f"dom0-x/{number}", "in_bytes": Int64(2**63 - 1)})
    possible = round((NOW - MARCH).total_seconds()) * 50_000_000_000
    usage.insert_one({**USAGE, "_id": "dom0-y/1", "host": "dom0-y", "out_bytes": Int64(possible)})
    a.sync.push()
    assert shared.elsewhere(a.ledger)[a.vm("web1").id][1] == Counters(7, possible)
    (fault,) = a.sync.faults
    assert "'web1' on 'dom0-x'" in fault
    assert "400 Gbit/s" in fault


def test_many_hosts_with_the_most_possible_usage_do_not_overflow_the_ledger(a: Dom0, usage: Any) -> None:
    a.add("web1", limit_bytes=100)
    much = Int64(8 * 10**16)
    usage.insert_many({**USAGE, "_id": f"h{n}/1", "host": f"h{n}", "in_bytes": much} for n in range(200))
    a.sync.push()
    assert shared.elsewhere(a.ledger)[a.vm("web1").id][1] == Counters(2**63 - 1, 200 * 8)


def test_a_thousand_impossible_documents_are_a_few_lines(a: Dom0, usage: Any) -> None:
    a.add("web1", limit_bytes=100)
    usage.insert_many({**USAGE, "_id": f"x/{number}", "vm": ["web1"]} for number in range(1000))
    a.sync.push()
    assert len(a.sync.faults) == 11


def _following(host: Host, name: str, uri: str) -> Sync:
    """The book thread of a host, run outside its namespace, which cannot reach the server."""
    settings = Settings(
        host=HostSection(name=name),
        ledger=LedgerSection(path=host.ledger_path),
        mongodb=MongodbSection(uri=uri, database=KEEPER.database, interval=0.2),
    )
    sync = Sync(settings, SystemClock())
    sync.start()
    return sync


def test_a_vm_moved_ten_times_between_two_dom0s_is_charged_every_byte_once(server: Mongod) -> None:
    total = Counters(0, 0)
    with Host() as first, Host() as second:
        hosts = (first, second)
        syncs = []
        for number, host in enumerate(hosts):
            host.start_daemon()
            syncs.append(_following(host, f"dom0-{number}", server.uri))
        for move in range(10):
            host = hosts[move % 2]
            guest = host.start("web1")
            guest.send(50_000)
            total = total.plus(host.quiet(guest))
            guest.stop()
            assert at_last(lambda: _sum(hosts), total) == total
        period = {"vm": "web1", "span": "period"}
        usage = server.client()[KEEPER.database].usage

        def fleet() -> Counters:
            rows = list(usage.find(period))
            return Counters(sum(row["in_bytes"] for row in rows), sum(row["out_bytes"] for row in rows))

        assert at_last(fleet, total) == total
        for sync in syncs:
            sync.stop()


def _sum(hosts: tuple[Host, ...]) -> Counters:
    found = Counters(0, 0)
    for host in hosts:
        found = found.plus(host.usage("web1"))
    return found


def test_a_vm_that_is_blocked_on_one_dom0_is_blocked_on_the_next(server: Mongod) -> None:
    with Host() as first, Host() as second:
        syncs: list[Sync] = []
        for number, host in enumerate((first, second)):
            host.start_daemon()
            syncs.append(_following(host, f"dom0-{number}", server.uri))
        guest = first.start("web1")
        first.xenbw("addvm", "web1", "--limit", "1MB")
        guest.send(1_000_000)
        assert until(lambda: first.blocked(guest.address()))
        guest.stop()
        moved = second.start("web1", (guest.address(),))
        # Less than a frame of its allowance is left.
        moved.send(10_000)
        assert until(lambda: second.blocked(moved.address()))
        assert not moved.ping("10.50.0.2", timeout=0.2)
        moved.reboot()
        assert second.blocked(moved.address())
        for sync in syncs:
            sync.stop()

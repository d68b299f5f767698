"""xenbw fleet shows the documents of several hosts in a real mongod on one page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson.int64 import Int64

from tests.support.console import Console
from tests.support.mongoaccess import KEEPER, Access
from tests.support.mongod import Mongod
from tests.support.replicaset import ReplicaSet

pytestmark = pytest.mark.mongo

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture
def console(tmp_path: Path, server: Mongod) -> Console:
    return with_book(tmp_path, server.uri)


def with_book(folder: Path, uri: str) -> Console:
    console = Console(folder)
    with console.config.open("a") as file:
        file.write(f'[mongodb]\nuri = "{uri}"\ndatabase = "{KEEPER.database}"\n')
    return console


def base(server: Mongod | ReplicaSet) -> Any:
    return server.client(tz_aware=True)[KEEPER.database]


def beat(
    server: Mongod | ReplicaSet, host: str, ago: timedelta, backlog: int = 0, states: Sequence[tuple[Any, str]] = ()
) -> None:
    document = {"_id": host, "host": host, "seen_at": datetime.now(UTC) - ago, "version": "1", "backlog": backlog}
    document |= {"states": [{"vm": vm, "state": state} for vm, state in states]} if states else {}
    base(server).hosts.insert_one(document)


def use(server: Mongod, host: str, vm: str, start: datetime, in_bytes: int, out_bytes: int, life: int = 1) -> None:
    base(server).usage.insert_one(
        {
            "_id": f"{host}/{vm}/{life}/period/{start}",
            "host": host,
            "vm": vm,
            "span": "period",
            "start": start,
            "period_start": start,
            "in_bytes": Int64(in_bytes),
            "out_bytes": Int64(out_bytes),
        }
    )


def fleet(console: Console) -> Any:
    return json.loads(console.done("fleet", "--json"))


def test_hosts_are_shown_with_their_lag_and_vms_by_usage_across_hosts(console: Console, server: Mongod) -> None:
    beat(server, "dom0-a", timedelta(seconds=5))
    beat(server, "dom0-b", timedelta(hours=3), backlog=41_220)
    use(server, "dom0-a", "web1", TODAY, 100, 50)
    use(server, "dom0-b", "web1", TODAY, 1_000, 0)
    use(server, "dom0-b", "web2", TODAY, 10**13, 10**12)
    lines = console.done("fleet").splitlines()
    assert lines[0].split() == ["HOST", "SEEN", "LAG", "BACKLOG", "VERSION"]
    assert [line.split()[0] for line in lines[1:3]] == ["dom0-a", "dom0-b"]
    assert "3:00:" in lines[2]
    assert "41,220" in lines[2]
    assert lines[4].split() == ["VM", "IN", "OUT", "TOTAL", "PERIOD", "BEGAN", "HOST(S)"]
    assert [" ".join(line.split()) for line in lines[5:]] == [
        f"web2 10.0 TB 1.00 TB 11.0 TB {TODAY:%Y-%m-%d} 00:00 UTC dom0-b",
        f"web1 1.10 KB 50 B 1.15 KB {TODAY:%Y-%m-%d} 00:00 UTC dom0-a, dom0-b",
    ]


def test_fleet_json_has_each_hosts_part_of_a_vms_usage(console: Console, server: Mongod) -> None:
    beat(server, "dom0-a", timedelta(seconds=60))
    use(server, "dom0-a", "web1", TODAY, 2**53 + 1, 1)
    use(server, "dom0-b", "web1", TODAY, 10, 20)
    document = fleet(console)
    (host,), (vm,) = document["hosts"], document["vms"]
    assert host["lag_seconds"] in range(60, 120)
    assert (host["name"], host["backlog"], host["version"]) == ("dom0-a", 0, "1")
    assert vm == {
        "name": "web1",
        "period_start": f"{TODAY:%Y-%m-%dT00:00:00Z}",
        "in_bytes": 2**53 + 11,
        "out_bytes": 21,
        "total_bytes": 2**53 + 32,
        "hosts": [
            {"name": "dom0-a", "in_bytes": 2**53 + 1, "out_bytes": 1},
            {"name": "dom0-b", "in_bytes": 10, "out_bytes": 20},
        ],
        "states": {},
    }


def test_a_vms_state_on_each_host_stands_behind_the_host(console: Console, server: Mongod) -> None:
    for host, states in (
        ("dom0-a", [("web1", "throttled"), ("web2", "over"), ("idle", "blocked")]),
        ("dom0-b", [("web1", "over"), ("web2", "over")]),
        ("dom0-c", [("web1", "throttled")]),
    ):
        beat(server, host, timedelta(days=9) if host == "dom0-c" else timedelta(0), states=states)
    use(server, "dom0-a", "web1", TODAY, 300, 0)
    use(server, "dom0-b", "web2", TODAY, 200, 0)
    use(server, "dom0-c", "web3", TODAY, 100, 0)
    document = fleet(console)
    assert {vm["name"]: vm["states"] for vm in document["vms"]} == {
        # dom0-c wrote its state before the VM's present period.
        "web1": {"dom0-a": "throttled", "dom0-b": "over"},
        "web2": {"dom0-a": "over", "dom0-b": "over"},
        "web3": {},
    }
    assert [host["states"] for host in document["hosts"]] == [
        {"throttled": 1, "over": 1, "blocked": 1},
        {"over": 2},
        {"throttled": 1},
    ]
    hosts = [line.partition("UTC")[2].strip() for line in console.done("fleet").splitlines()[-3:]]
    assert hosts == ["dom0-a (throttled), dom0-b (over)", "dom0-a (over), dom0-b (over)", "dom0-c"]


def test_impossible_states_are_left_out(console: Console, server: Mongod) -> None:
    use(server, "dom0-a", "web1", TODAY, 100, 0)
    beat(server, "dom0-a", timedelta(0), states=[("web1", "throttled"), ("web1", "hovering"), (["web1"], "over")])
    base(server).hosts.update_one({}, {"$push": {"states": {"$each": [7, None, "web1", {"vm": 1}, {"state": "over"}]}}})
    beat(server, "dom0-b", timedelta(0))
    base(server).hosts.update_one({"_id": "dom0-b"}, {"$set": {"states": "throttled"}})
    assert fleet(console)["vms"][0]["states"] == {"dom0-a": "throttled"}


def test_only_the_latest_period_counts_and_only_if_it_may_be_the_present_period(
    console: Console, server: Mongod
) -> None:
    use(server, "dom0-a", "web1", TODAY - timedelta(days=5), 7, 0)
    use(server, "dom0-b", "web1", TODAY, 3, 0)
    use(server, "dom0-a", "idle", TODAY - timedelta(days=40), 9, 0)
    assert [(vm["name"], vm["in_bytes"]) for vm in fleet(console)["vms"]] == [("web1", 3)]


def test_usage_that_moved_to_an_earlier_period_is_found_there(console: Console, server: Mongod) -> None:
    use(server, "dom0-a", "web1", TODAY, 0, 0)
    use(server, "dom0-a", "web1", TODAY - timedelta(days=5), 30, 0)
    assert [vm["in_bytes"] for vm in fleet(console)["vms"]] == [30]


def test_a_vm_with_two_rows_on_one_host_has_one_sum_there(console: Console, server: Mongod) -> None:
    use(server, "dom0-a", "web1", TODAY, 1, 0, life=1)
    use(server, "dom0-a", "web1", TODAY, 2, 0, life=2)
    (vm,) = fleet(console)["vms"]
    assert vm["hosts"] == [{"name": "dom0-a", "in_bytes": 3, "out_bytes": 0}]


def test_a_host_with_an_impossible_document_is_still_shown(console: Console, server: Mongod) -> None:
    base(server).hosts.insert_one({"_id": "dom0-x\x1b[2J", "seen_at": "soon", "backlog": "many"})
    assert fleet(console)["hosts"][0]["seen_at"] is None
    shown = console.done("fleet")
    assert "never" in shown
    assert "\x1b" not in shown


def test_impossible_documents_are_named_and_everything_else_is_shown(console: Console, server: Mongod) -> None:
    beyond = {"$toDate": 253_402_300_800_000}  # the year 10000, which Python's dates do not reach
    use(server, "dom0-a", "web1", TODAY, 100, 50)
    database = base(server)
    database.hosts.insert_one({"_id": "dom0-a"})
    database.hosts.update_one({}, [{"$set": {"seen_at": beyond, "backlog": "many"}}])
    good = {"span": "period", "vm": "web1", "host": "dom0-x", "start": TODAY, "in_bytes": 7, "out_bytes": 8}
    bad = {
        "array": {"vm": ["web1"]},
        "beyond": {"start": beyond},
        "future": {"start": TODAY + timedelta(days=400)},
        "arrays": {"in_bytes": [7]},
        "flood": {"host": "dom0-z", "in_bytes": Int64(2**63 - 1)},
        "flood2": {"host": "dom0-z", "in_bytes": Int64(2**63 - 1)},
    }
    for name, wrong in bad.items():
        database.usage.insert_one({"_id": name, **good})
        database.usage.update_one({"_id": name}, [{"$set": wrong}])
    result = console.run("fleet", "--json")
    document = json.loads(result.stdout)
    assert [(vm["name"], vm["in_bytes"], vm["out_bytes"]) for vm in document["vms"]] == [("web1", 100, 50)]
    assert [host["seen_at"] for host in document["hosts"]] == [None]
    said = " ".join(document["left_out"])
    assert [name for name in bad if f"'{name}'" in said] == ["array", "beyond", "future", "arrays"]
    assert "'web1' on 'dom0-z'" in said
    assert result.stderr.splitlines() == [f"! {fault}" for fault in document["left_out"]]


def test_a_clock_ahead_of_ours_is_no_negative_lag(console: Console, server: Mongod) -> None:
    beat(server, "dom0-a", timedelta(seconds=-90))
    assert fleet(console)["hosts"][0]["lag_seconds"] == 0


def test_fleet_says_that_a_book_is_empty(console: Console) -> None:
    assert console.done("fleet") == "no host has written to the book yet\n"


def test_fleet_reads_a_replica_set_with_logins_and_tls(tmp_path: Path, replicas: ReplicaSet, guarded: Access) -> None:
    beat(replicas, "dom0-a", timedelta(0))
    console = with_book(tmp_path, replicas.uri)
    assert [host["name"] for host in fleet(console)["hosts"]] == ["dom0-a"]


def test_a_missing_or_hung_server_is_an_error_of_one_line(console: Console, server: Mongod) -> None:
    server.hang()
    hung = console.run("fleet")
    server.kill()
    for result in (hung, console.run("fleet")):
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert result.stderr.startswith("xenbw: the book: ")

"""xenbw import-bwmon imports the 2014 script's database, from a real mongod or from a dump of it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import bson
import pytest
from bson import json_util
from bson.objectid import ObjectId

from tests.mongo.test_fleet import with_book
from tests.support.console import Console, StandIn
from tests.support.mongod import Mongod
from xenbw import quota
from xenbw.ledger import usagelog
from xenbw.model import Count, Counters

pytestmark = pytest.mark.mongo

NOW = datetime.now(UTC)
MONTH = NOW.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
GB = 2**30


@pytest.fixture
def console(tmp_path: Path, server: Mongod) -> Console:
    return with_book(tmp_path, server.uri)


def stamp(at: datetime) -> dict[str, Any]:
    """A time as mongoid-metastamp stores Time.now on a host whose clock shows UTC."""
    return {"time": at, "normalized": at, "year": at.year, "month": at.month, "day": at.day, "zone": "+00:00"}


class Script:
    """The 2014 script's database. now: when it last ran."""

    def __init__(self, server: Mongod) -> None:
        self.base = server.client(tz_aware=True)["bwmon"]
        self.uri = server.uri.replace("/?", "/bwmon?")
        self.now = datetime.now(UTC)
        self._ids: dict[str, ObjectId] = {}

    def watch(self, hostname: str, limit: object) -> None:
        self._ids[hostname] = (
            self.base.virtual_machines.insert_one(
                {"hostname": hostname, "bandwidth_limit_gigabytes": limit, "created_at": MONTH}
            )
        ).inserted_id

    def measure(self, hostname: str, cumulative: object, at: datetime) -> None:
        self.base.bandwidth_measurements.insert_one(
            {
                "virtual_machine_id": self._ids[hostname],
                "cumulative_gigabytes": cumulative,
                "current_gigabytes": 1,
                "timestamp": stamp(at),
            }
        )

    def limit(self, hostname: str, limit: object) -> None:
        self.base.virtual_machines.update_one({"hostname": hostname}, {"$set": {"bandwidth_limit_gigabytes": limit}})


@pytest.fixture
def script(server: Mongod) -> Script:
    """web1 has used 300 of its 500 gigabytes this month, ren has used nothing; last month's usage differs."""
    script = Script(server)
    script.watch("web1", 500)
    script.watch("ren", 50)
    for hostname in ("web1", "ren"):
        script.measure(hostname, 999, MONTH - timedelta(hours=1))
    script.measure("web1", 0, MONTH)
    script.measure("web1", 300, script.now)
    return script


def used(console: Console, name: str) -> Counters:
    with console.ledger() as ledger:
        vm = ledger.vm_named(name)
        assert vm is not None
        return usagelog.of_period(ledger, vm.id, MONTH)


def snapshot(console: Console) -> list[tuple[Any, ...]]:
    with console.ledger() as ledger:
        return [
            tuple(row)
            for table in ("vm", "usage", "event", "meta")
            for row in ledger.rows(f"SELECT * FROM {table}")  # noqa: S608 (names above)
        ]


def test_vms_are_imported_with_their_limits_and_this_months_usage(console: Console, script: Script) -> None:
    (console.xen / "web1.cfg").write_text('name = "web1"\nvif = ["ip=192.0.2.7"]\n')
    said = console.done("import-bwmon", script.uri).splitlines()
    vm = console.vm("web1")
    assert (vm.limit_bytes, vm.count, vm.unlimited) == (500 * GB, Count.TOTAL, False)
    assert vm.added_at is not None
    assert [str(ip) for ip in vm.ips] == ["192.0.2.7"]
    assert used(console, "web1") == Counters(300 * GB, 0)
    assert used(console, "ren") == Counters(0, 0)
    assert " ".join(said[0].split()) == "VM SCRIPT'S LIMIT LIMIT HERE SCRIPT COUNTED ADDED TO USAGE MEASURED"
    assert " ".join(said[1].split()) == "ren 53.7 GB 53.7 GB - 0 B not this period"
    assert " ".join(said[2].split()) == f"web1 537 GB 537 GB 322 GB 322 GB {script.now:%Y-%m-%d %H:%M} UTC"


def test_a_config_file_whose_name_is_not_utf_8_is_shown_as_bytes(console: Console, script: Script) -> None:
    (console.xen / os.fsdecode(b"caf\xe9.cfg")).write_text('name = "web1"\n')
    console.done("import-bwmon", script.uri)
    assert console.vm("web1").config_file == rf"{console.xen}/caf\xe9.cfg"


def test_usage_that_was_taken_over_counts_for_the_verdict(console: Console, script: Script) -> None:
    script.measure("ren", 51, script.now)
    console.done("import-bwmon", script.uri)
    listed = {vm["name"]: vm for vm in json.loads(console.run("list", "--json").stdout)["vms"]}
    assert (listed["web1"]["state"], listed["web1"]["used_bytes"]) == ("ok", 300 * GB)
    assert listed["ren"]["state"] == "over"


@pytest.mark.parametrize("reset_day", [1, 31, (NOW - timedelta(days=3)).day, (NOW + timedelta(days=3)).day])
@pytest.mark.parametrize("whose", ["everyone's", "its own"])
def test_only_the_script_s_usage_of_the_present_period_is_taken_over(
    console: Console, server: Mongod, reset_day: int, whose: str
) -> None:
    if whose == "its own":
        console.run("addvm", "web1", "--limit", "20GB", "--reset-day", str(reset_day))
    else:
        config = console.config.read_text()
        console.config.write_text(config.replace("clock_wait = 0", f"clock_wait = 0\nreset_day = {reset_day}"))
    script = Script(server)
    script.watch("web1", 100)
    start = quota.period_at(script.now, reset_day, ZoneInfo("UTC")).start
    day = midnight = start.replace(day=1)
    while day <= script.now:  # a gigabyte a day, from 0 in each calendar month
        midnight = midnight if day.day > 1 else day
        script.measure("web1", (day - midnight).days, day)
        day += timedelta(days=1)
        if day.day == 1 and day <= script.now:
            script.measure("web1", (day - midnight).days, day - timedelta(seconds=1))
    script.measure("web1", (script.now - midnight).days, script.now)
    console.done("import-bwmon", script.uri)
    with console.ledger() as ledger:
        vm = ledger.vm_named("web1")
        assert vm is not None
        assert usagelog.of_period(ledger, vm.id, start) == Counters((script.now - start).days * GB, 0)
    once = snapshot(console)
    console.done("import-bwmon", script.uri)
    assert snapshot(console) == once


def test_blanks_in_a_hostname_are_removed_as_the_script_does(console: Console, script: Script) -> None:
    script.watch("web 2", 20)
    script.measure("web 2", 7, script.now)
    script.watch(" web 1", 30)
    result = console.run("import-bwmon", script.uri)
    assert (console.vm("web2").limit_bytes, used(console, "web2")) == (20 * GB, Counters(7 * GB, 0))
    assert console.vm("web1").limit_bytes == 500 * GB
    assert [line.partition(":")[2] for line in result.stderr.splitlines()] == [
        " ' web 1' is skipped: 'web1' is web1 too",
        " 'web 2' is web2: the script compares names without blanks",
    ]


def test_importing_twice_changes_nothing(console: Console, script: Script) -> None:
    console.done("import-bwmon", script.uri)
    once = snapshot(console)
    console.done("import-bwmon", script.uri)
    console.done("import-bwmon", "--overwrite", script.uri)
    assert snapshot(console) == once


def test_usage_metered_here_before_the_last_measurement_is_not_added_again(console: Console, script: Script) -> None:
    console.runs("web1")
    console.uses("web1", 10 * GB, 20 * GB)
    console.done("import-bwmon", script.uri)
    assert sum(used(console, "web1")) == 300 * GB
    script.measure("web1", 310, script.now + timedelta(milliseconds=1))
    console.done("import-bwmon", script.uri)
    assert used(console, "web1") == Counters(290 * GB, 20 * GB)


def test_usage_metered_here_after_the_last_measurement_is_added_to_it(console: Console, server: Mongod) -> None:
    script = Script(server)
    measured = script.now - timedelta(hours=2)
    if measured < MONTH:
        pytest.skip("the month is less than two hours old")
    script.watch("web1", 500)
    script.measure("web1", 300, measured)
    console.runs("web1")
    console.uses("web1", 10 * GB, 20 * GB)
    console.done("import-bwmon", script.uri)
    assert used(console, "web1") == Counters(310 * GB, 20 * GB)


def test_a_vm_that_was_added_here_keeps_its_limit_unless_told_otherwise(console: Console, script: Script) -> None:
    console.run("addvm", "web1", "--limit", "700GB", "--count", "out", "--ip", "192.0.2.9")
    result = console.run("import-bwmon", script.uri)
    assert "700 GB (kept)" in result.stdout
    assert result.stderr == "note: web1 counts out; the script's sum is filed as in\n"
    assert console.vm("web1").limit_bytes == 700 * 10**9
    assert used(console, "web1") == Counters(300 * GB, 0)
    console.done("import-bwmon", "--overwrite", script.uri)
    vm = console.vm("web1")
    assert (vm.limit_bytes, vm.count, [str(ip) for ip in vm.ips]) == (500 * GB, Count.TOTAL, ["192.0.2.9"])


def test_a_dry_run_writes_nothing_and_needs_no_ledger(console: Console, script: Script) -> None:
    said = console.done("import-bwmon", "--dry-run", script.uri)
    assert "322 GB" in said
    assert said.endswith("nothing was written\n")
    assert not console.ledger_path.exists()
    console.done("import-bwmon", script.uri)
    script.limit("web1", 1)
    once = snapshot(console)
    said = console.done("import-bwmon", "--dry-run", "--overwrite", script.uri)
    assert "web1 1.07 GB 1.07 GB" in " ".join(said.split())
    assert snapshot(console) == once


def test_while_the_daemon_runs_nothing_is_imported(console: Console, script: Script) -> None:
    with StandIn(console):
        result = console.run("import-bwmon", script.uri)
    assert (result.returncode, result.stdout) == (1, "")
    assert "xenbwd is running: nothing was taken over (systemctl stop" in result.stderr
    assert not console.ledger_path.exists()


@pytest.mark.parametrize("limit", [None, 0, -5, "500", float("nan"), float("inf"), 2**62, True])
def test_a_vm_with_an_impossible_limit_is_skipped_with_a_note(console: Console, script: Script, limit: Any) -> None:
    script.limit("web1", limit)
    result = console.run("import-bwmon", script.uri)
    assert result.returncode == 0
    assert result.stderr.startswith("note: web1 is skipped: the script's limit is no number of gigabytes")
    with console.ledger() as ledger:
        assert [vm.name for vm in ledger.vms().values()] == ["ren"]


def test_a_limit_edited_in_the_mongo_shell_is_accepted(console: Console, script: Script) -> None:
    script.limit("web1", 500.0)
    console.done("import-bwmon", script.uri)
    assert console.vm("web1").limit_bytes == 500 * GB


def test_impossible_documents_change_nothing_for_other_vms(console: Console, script: Script) -> None:
    script.watch("Domain-0", 5)
    script.watch("\x1b[2J", 5)
    script.base.virtual_machines.insert_many([{}, {"hostname": 5}, {"hostname": " "}])
    script.base.bandwidth_measurements.insert_many(
        [{}, {"timestamp": script.now}, {"timestamp": {**stamp(script.now), "time": "now"}, "cumulative_gigabytes": 1}]
    )
    script.measure("web1", -1, script.now)
    script.measure("web1", "lots", script.now)
    result = console.run("import-bwmon", script.uri)
    assert (result.returncode, result.stderr.count("\n")) == (0, 2)
    assert "\x1b" not in result.stdout + result.stderr
    assert used(console, "web1") == Counters(300 * GB, 0)


# dumps of the script's database


def dump(script: Script, folder: Path, kind: str) -> None:
    """A dump as mongodump (bson) or mongoexport (json) writes it."""
    for name in ("virtual_machines", "bandwidth_measurements"):
        documents = list(script.base[name].find())
        if kind == "bson":
            (folder / f"{name}.bson").write_bytes(b"".join(bson.encode(document) for document in documents))
        else:
            options = json_util.RELAXED_JSON_OPTIONS if kind == "relaxed" else json_util.CANONICAL_JSON_OPTIONS
            lines = [json_util.dumps(document, json_options=options) for document in documents]
            (folder / f"{name}.json").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("kind", ["bson", "relaxed", "canonical"])
def test_a_folder_of_mongodump_or_mongoexport_gives_the_same_as_the_server(
    console: Console, script: Script, tmp_path: Path, kind: str
) -> None:
    dump(script, tmp_path, kind)
    console.done("import-bwmon", str(tmp_path))
    assert console.vm("web1").limit_bytes == 500 * GB
    assert used(console, "web1") == Counters(300 * GB, 0)
    once = snapshot(console)
    console.done("import-bwmon", script.uri)
    assert snapshot(console) == once


@pytest.mark.parametrize(
    ("content", "why"),
    [(None, "name a folder with"), (b"\x05", "dump it again"), (b"\xff" * 90, "dump it again")],
)
def test_an_unreadable_dump_is_an_error_of_one_line(
    console: Console, tmp_path: Path, content: bytes | None, why: str
) -> None:
    for name in ("virtual_machines", "bandwidth_measurements"):
        if content is not None:
            (tmp_path / f"{name}.bson").write_bytes(content)
    result = console.run("import-bwmon", str(tmp_path))
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert why in result.stderr
    assert not console.ledger_path.exists()


@pytest.mark.parametrize("text", ["[{}]", "[]", "nonsense", '{"a": {"$oid": 5}}', "[" * 100_000, "\udcff"])
def test_json_without_one_document_a_line_is_an_error_of_one_line(console: Console, tmp_path: Path, text: str) -> None:
    for name in ("virtual_machines", "bandwidth_measurements"):
        (tmp_path / f"{name}.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    result = console.run("import-bwmon", str(tmp_path))
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)


@pytest.mark.parametrize("uri", ["mongodb://127.0.0.1:1/bwmon", "mongodb://:x@/", "mongodb://u:geheim@h:port/x"])
def test_an_unreachable_database_is_an_error_of_one_line_without_the_password(console: Console, uri: str) -> None:
    result = console.run("import-bwmon", uri)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("xenbw: the script's database: ")
    assert "geheim" not in result.stderr

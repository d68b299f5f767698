"""xenbw report --json vnstat, compared with what the real vnStat prints."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import utc
from tests.support.console import Console, StandIn
from tests.unit.test_cli_report import count
from xenbw.model import Amounts, Cell, Span

GB = 10**9
LISTS = ("fiveminute", "hour", "day", "month", "year", "top")


def shape(value: Any) -> Any:
    """The keys, in their order, and the types of all values."""
    if isinstance(value, dict):
        return [(key, shape(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        assert value, "an empty list shows no shape"
        assert all(shape(inner) == shape(value[0]) for inner in value)
        return [shape(value[0])]
    return type(value).__name__


def printed(console: Console, *words: str) -> Any:
    return json.loads(console.done("report", "--json", "vnstat", *words))


def traffic(console: Console, *words: str) -> Any:
    (interface,) = printed(console, *words)["interfaces"]
    return interface["traffic"]


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def web1(console: Console, daemon: StandIn, now: datetime) -> None:
    """A VM with traffic of an hour ago."""
    console.run("addvm", "web1", "--limit", "500GB")
    start = now - timedelta(hours=1)
    begin = start - timedelta(seconds=start.timestamp() % 300)
    count(console, "web1", [Cell(Span.FIVE_MINUTES, begin, Amounts(5 * GB, 7 * GB, 1, 2, 3))])


@pytest.fixture
def real(tmp_path: Path) -> Any:
    """What vnStat prints of a database of its own with a value in each list."""
    if shutil.which("vnstatd") is None:
        pytest.skip("vnStat is not installed")
    folder = tmp_path / "vnstat"
    folder.mkdir()
    config = folder / "vnstat.conf"
    config.write_text(f'DatabaseDir "{folder}"\n')
    subprocess.run(["vnstatd", "--config", str(config), "--initdb"], check=True, capture_output=True)
    vnstat = ["vnstat", "--config", str(config)]
    subprocess.run([*vnstat, "--add", "-i", "lo"], check=True, capture_output=True)
    database = sqlite3.connect(folder / "vnstat.db")
    for name in LISTS:
        # The tables of its lists have their names.
        database.execute(f"INSERT INTO {name} (interface, date, rx, tx) VALUES (1, '2026-01-01', 5, 7)")  # noqa: S608
    database.commit()
    database.close()
    return json.loads(subprocess.run([*vnstat, "--json"], check=True, capture_output=True).stdout)


def test_the_document_has_the_keys_and_types_of_the_real_vnstat(console: Console, web1: None, real: Any) -> None:
    ours = printed(console)
    assert shape(ours) == shape(real)
    assert ours["jsonversion"] == real["jsonversion"]
    (interface,) = ours["interfaces"]
    assert (interface["name"], interface["alias"]) == ("web1", real["interfaces"][0]["alias"])


def test_rx_is_in_to_the_vm_and_tx_out_of_it_in_every_list(console: Console, web1: None) -> None:
    found = traffic(console)
    assert found["total"] == {"rx": 5 * GB, "tx": 7 * GB}
    for name in LISTS:
        assert [(value["rx"], value["tx"]) for value in found[name]] == [(5 * GB, 7 * GB)], name


def test_dates_are_local_and_as_exact_as_their_list_and_timestamps_are_unix(console: Console, daemon: StandIn) -> None:
    console.config.write_text(console.config.read_text().replace("[period]\n", '[period]\ntimezone = "Asia/Tokyo"\n'))
    console.run("addvm", "web1", "--limit", "500GB")
    count(console, "web1", [Cell(Span.FIVE_MINUTES, utc("2025-12-31 15:05"), Amounts(1, 2))])
    found, midnight = traffic(console), int(utc("2025-12-31 15:00").timestamp())
    (day,), (year,), (top,) = found["day"], found["year"], found["top"]
    assert day == {
        "id": midnight,
        "date": {"year": 2026, "month": 1, "day": 1},
        "timestamp": midnight,
        "rx": 1,
        "tx": 2,
    }
    assert (year["date"], year["timestamp"]) == ({"year": 2026}, midnight)
    assert top == day


def test_the_lists_are_as_long_as_vnstat_s_and_the_total_has_everything(
    console: Console, daemon: StandIn, now: datetime
) -> None:
    console.run("addvm", "web1", "--limit", "500GB")
    end = now - timedelta(seconds=now.timestamp() % 300)
    fives = [Cell(Span.FIVE_MINUTES, end - n * timedelta(minutes=5), Amounts(1, 0)) for n in range(1000)]
    days = [Cell(Span.DAY, end - n * timedelta(days=1), Amounts(n, n)) for n in range(10, 1000)]
    count(console, "web1", [*fives, *days])
    found = traffic(console)
    assert [len(found[name]) for name in ("fiveminute", "day", "month", "top")] == [576, 62, 25, 20]
    assert len(found["hour"]) <= 96
    assert found["total"] == {"rx": 1000 + sum(range(10, 1000)), "tx": sum(range(10, 1000))}
    assert [value["tx"] for value in found["top"]] == list(range(999, 979, -1))
    for name in LISTS[:-1]:
        times = [value["timestamp"] for value in found[name]]
        assert times == sorted(times), name
        assert times[-1] >= (end - timedelta(days=366)).timestamp(), name


def test_a_vm_without_traffic_has_empty_lists(console: Console, daemon: StandIn) -> None:
    console.run("addvm", "web1", "--limit", "500GB")
    assert traffic(console) == {"total": {"rx": 0, "tx": 0}, **{name: [] for name in LISTS}}


def test_a_name_chooses_one_vm(console: Console, web1: None) -> None:
    console.runs("passing by", "vif8.0")
    assert [one["name"] for one in printed(console)["interfaces"]] == ["passing by", "web1"]
    for words in (("--json", "vnstat", "web1"), ("web1", "--json", "vnstat"), ("--json=vnstat", "web1")):
        (interface,) = json.loads(console.done("report", *words))["interfaces"]
        assert interface["name"] == "web1"


def test_a_vm_s_name_after_json_is_the_vm(console: Console, web1: None) -> None:
    assert (
        console.done("report", "--json", "web1").split('"generated_at"')[1][30:]
        == (console.done("report", "web1", "--json").split('"generated_at"')[1][30:])
    )


def test_a_vm_that_is_called_vnstat_comes_before_json(console: Console, daemon: StandIn) -> None:
    console.runs("vnstat")
    for words in (("vnstat", "--json"), ("--json", "--", "vnstat")):
        (vm,) = json.loads(console.done("report", *words))["vms"]
        assert vm["name"] == "vnstat"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--json", "vnstat", "wep1"), "no VM named 'wep1' is known (did you mean web1?)"),
        (("--json", "vnstat", "--period", "2026-10"), "--json vnstat takes no period"),
        (("--json", "vnstat", "--csv"), "not allowed with argument"),
        (("--json", "vnstad", "web1"), "--json takes no word but vnstat, not 'vnstad'"),
        (("--json", "vnstad"), "no VM named 'vnstad' is known"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(console: Console, web1: None, words: tuple[str, ...], said: str) -> None:
    done = console.run("report", *words)
    assert done.returncode != 0
    assert said in done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done.stderr


def test_updated_is_not_before_created(console: Console, web1: None) -> None:
    (interface,) = printed(console)["interfaces"]
    assert interface["updated"]["timestamp"] >= interface["created"]["timestamp"]

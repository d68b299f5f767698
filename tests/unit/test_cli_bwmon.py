"""xenbw import-bwmon takes a month's sum, which is nobody's traffic of one hour."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.console import Console
from xenbw.accounting import hour_of
from xenbw.ledger import history
from xenbw.model import Amounts, Cell, Span

GB = 2**30
NOW = datetime.now(UTC)
OWNER = {"$oid": "5" * 24}


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """The script's database as mongoexport writes it: web1 has used 300 of its 500 gigabytes this month."""
    folder = tmp_path / "dump"
    folder.mkdir()
    machine = {"_id": OWNER, "hostname": "web1", "bandwidth_limit_gigabytes": 500}
    at = {"time": {"$date": NOW.isoformat(timespec="milliseconds")}, "year": NOW.year, "month": NOW.month}
    measured = {"virtual_machine_id": OWNER, "cumulative_gigabytes": 300, "timestamp": at}
    (folder / "virtual_machines.json").write_text(f"{json.dumps(machine)}\n")
    (folder / "bandwidth_measurements.json").write_text(f"{json.dumps(measured)}\n")
    return folder


def used(console: Console) -> int:
    (vm,) = json.loads(console.run("list", "--json").stdout)["vms"]
    return int(vm["used_bytes"])


def test_a_sum_that_was_taken_over_is_not_taken_over_again(console: Console, dump: Path) -> None:
    console.done("import-bwmon", str(dump))
    assert used(console) == 300 * GB
    assert "  0 B  " in console.done("import-bwmon", str(dump))
    assert used(console) == 300 * GB


def test_a_sum_that_was_taken_over_is_in_a_day_and_in_no_percentile(console: Console, dump: Path) -> None:
    console.done("import-bwmon", str(dump))
    metered = Cell(Span.FIVE_MINUTES, hour_of(NOW), Amounts(7, 0))
    with console.ledger() as ledger, ledger.transaction() as db:
        history.add(db, [(ledger.meet("web1", NOW).id, metered)])
    (vm,) = json.loads(console.run("report", "web1", "--json").stdout)["vms"]
    assert [day["in_bytes"] for day in vm["days"]] == [300 * GB + 7]
    assert [hour["in_bytes"] for hour in vm["hours"]] == [7]
    # In the first five minutes of a period no value is complete.
    assert (vm["percentile_95"] or {"value_seconds": 300})["value_seconds"] == 300

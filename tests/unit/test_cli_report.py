"""xenbw report: a billing month in days, top hours and the 95th percentile."""

from __future__ import annotations

import csv
import io
import json
import time
from argparse import Namespace
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.support.clock import HandClock, answering, utc
from tests.support.console import Console, StandIn
from xenbw import config
from xenbw.accounting import Pending, Share, hour_of
from xenbw.cli import report
from xenbw.cli.command import Context
from xenbw.clock import boot_id
from xenbw.ledger import history, usagelog
from xenbw.ledger.ledger import Alive
from xenbw.model import Amounts, Cell, Rates, Span
from xenbw.quota import period_at
from xenbw.report.period import Percentile, percentile

GB = 10**9
BEGIN = utc("2026-03-01")
FIVE = timedelta(minutes=5)


def five_minutes(*in_bytes: int) -> list[tuple[datetime, Amounts]]:
    return [(BEGIN + n * FIVE, Amounts(amount, 2 * amount)) for n, amount in enumerate(in_bytes) if amount]


def test_the_highest_twentieth_of_all_five_minutes_is_left_out() -> None:
    found = percentile(five_minutes(*range(1, 101)), Span.FIVE_MINUTES, BEGIN, BEGIN + 100 * FIVE)
    assert found == Percentile(Rates(95 * 8 // 300, 95 * 2 * 8 // 300), Span.FIVE_MINUTES, 100)


def test_five_minutes_without_traffic_are_among_the_values() -> None:
    busy = five_minutes(*[3000] * 5)
    assert percentile(busy, Span.FIVE_MINUTES, BEGIN, BEGIN + 100 * FIVE) == Percentile(
        Rates(0, 0), Span.FIVE_MINUTES, 100
    )
    assert percentile(busy, Span.FIVE_MINUTES, BEGIN, BEGIN + 99 * FIVE) == Percentile(
        Rates(80, 160), Span.FIVE_MINUTES, 99
    )


def test_a_period_that_has_just_begun_has_no_percentile() -> None:
    assert percentile((), Span.FIVE_MINUTES, BEGIN, BEGIN + FIVE / 2) is None


def test_the_five_minutes_that_are_not_over_are_neither_counted_nor_ranked() -> None:
    found = percentile(five_minutes(300, 0, 900), Span.FIVE_MINUTES, BEGIN, BEGIN + 2.5 * FIVE)
    assert found == Percentile(Rates(8, 16), Span.FIVE_MINUTES, 2)


def test_the_directions_are_ordered_each_for_itself() -> None:
    values = [(BEGIN, Amounts(300, 0)), (BEGIN + FIVE, Amounts(0, 600))]
    found = percentile(values, Span.FIVE_MINUTES, BEGIN, BEGIN + 2 * FIVE)
    assert found is not None
    assert found.rates == Rates(8, 16)


# the command


def count(console: Console, name: str, cells: Iterable[Cell]) -> None:
    """Commit the VM's traffic, as the daemon does."""
    cells = list(cells)
    with console.ledger() as ledger:
        vm = ledger.vm_named(name)
        assert vm is not None
        shares = tuple(
            (
                vm.id,
                Share(period_at(cell.start, 1, ZoneInfo("UTC")).start, hour_of(cell.start), *cell.amounts.usage, 0),
            )
            for cell in cells
        )
        alive = Alive(datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME), boot_id())
        usagelog.commit(ledger, Pending((), shares, (), tuple((vm.id, cell) for cell in cells)), alive)


@pytest.fixture
def march(console: Console, daemon: StandIn) -> None:
    """A VM with traffic in March 2026."""
    console.run("addvm", "web1", "--limit", "500GB")
    cells = [Cell(Span.FIVE_MINUTES, BEGIN + n * FIVE, Amounts(30 * 10**6, 0, 7, 8, 9)) for n in range(8000)]
    cells.append(Cell(Span.FIVE_MINUTES, utc("2026-03-10 12:05"), Amounts(0, 5 * GB)))
    count(console, "web1", cells)


def test_the_report_of_a_month_has_its_days_top_hours_and_percentile(console: Console, march: None) -> None:
    said = console.done("report", "web1", "--period", "2026-03")
    facts, days, top_days, top_hours = (part.splitlines() for part in said.split("\n\n"))
    assert facts == [
        "VM               web1",
        "period           2026-03-01 00:00 UTC to 2026-04-01 00:00 UTC",
        "used             245 GB of 500 GB (49.0 %)",
        "in               240 GB",
        "out              5.00 GB",
        "flood            56.0 KB, not counted",
        "refused          64.0 KB in, 72.0 KB out, not counted",
        "95th percentile  800 kbit/s in, 0 kbit/s out, of 8,928 five-minute values",
    ]
    assert days[0].split() == ["DAY", "IN", "OUT", "USED", "FLOOD", "REFUSED"]
    assert days[1].split() == "2026-03-01 Sun 8.64 GB 0 B 8.64 GB 2.02 KB 4.90 KB".split()
    assert len(days) == 1 + 28
    assert top_days[1].split()[:4] == ["2026-03-10", "Tue", "8.64", "GB"]
    assert len(top_days) == len(top_hours) == 1 + 5
    assert top_hours[1].startswith("2026-03-10 12:00 UTC  360 MB  5.00 GB  5.36 GB")


def test_the_json_has_the_numbers_of_the_text(console: Console, march: None) -> None:
    (vm,) = json.loads(console.done("report", "web1", "--period", "2026-03", "--json"))["vms"]
    assert vm["percentile_95"] == {"in_bits": 800_000, "out_bits": 0, "value_seconds": 300, "values": 8928}
    assert (vm["used_bytes"], vm["flood_bytes"]) == (245 * GB, 56_000)
    assert sum(day["in_bytes"] for day in vm["days"]) == sum(hour["in_bytes"] for hour in vm["hours"]) == 240 * GB
    assert vm["top_hours"][0]["start"] == "2026-03-10T12:00:00Z"


def test_the_csv_has_a_line_for_each_day(console: Console, march: None) -> None:
    lines = list(csv.reader(io.StringIO(console.done("report", "--period", "2026-03", "--csv"))))
    assert lines[0][:5] == ["vm", "period_start", "day", "in_bytes", "out_bytes"]
    assert lines[1] == ["web1", "2026-03-01T00:00:00Z", "2026-03-01", "8640000000", "0", "2016", "2304", "2592"]
    assert len(lines) == 1 + 28


def test_days_are_those_of_the_configured_zone(console: Console, march: None) -> None:
    config = console.config.read_text().replace("[period]\n", '[period]\ntimezone = "Asia/Tokyo"\n')
    console.config.write_text(config)
    days = console.done("report", "web1", "--period", "2026-03").split("\n\n")[1].splitlines()
    assert days[1].split()[:4] == ["2026-03-01", "Sun", "5.40", "GB"]  # from 9:00 on


def used(console: Console, month: str) -> tuple[int, int, int]:
    """The usage in that month by JSON: in, out and both, which its days must add up to."""
    (vm,) = json.loads(console.done("report", "web1", "--period", month, "--json"))["vms"]
    for way in ("in_bytes", "out_bytes"):
        assert vm[way] == sum(day[way] for day in vm["days"])
    return vm["in_bytes"], vm["out_bytes"], vm["used_bytes"]


def test_usage_that_was_filed_by_another_reset_day_is_that_of_the_days(console: Console, march: None) -> None:
    console.run("addvm", "web1", "--reset-day", "15")
    before, after = 14 * 288, 8000 - 14 * 288
    assert used(console, "2026-02") == (before * 30 * 10**6, 5 * GB, before * 30 * 10**6 + 5 * GB)
    assert used(console, "2026-03") == (after * 30 * 10**6, 0, after * 30 * 10**6)
    facts = console.done("report", "web1", "--period", "2026-02").splitlines()
    assert facts[2:5] == [
        "used             126 GB of 500 GB (25.2 %)",
        "in               121 GB",
        "out              5.00 GB",
    ]


def test_usage_that_was_filed_by_another_time_zone_is_that_of_the_days(console: Console, march: None) -> None:
    config = console.config.read_text().replace("[period]\n", '[period]\ntimezone = "Asia/Tokyo"\n')
    console.config.write_text(config)
    assert used(console, "2026-03") == (240 * GB, 5 * GB, 245 * GB)


def test_a_month_whose_end_was_filed_in_another_period_has_all_its_days(console: Console, march: None) -> None:
    # The reset day was the 15th for a while, so that the period that began on the 1st has only half of its hours.
    vm = console.vm("web1")
    with console.ledger() as ledger:
        usagelog.refile(ledger, vm.id, utc("2026-03-15"), "15@UTC")
        ledger.set_vm(vm.id, period_start=vm.period_start, period_rule=vm.period_rule)
    assert used(console, "2026-03") == (240 * GB, 5 * GB, 245 * GB)


def test_without_a_vm_every_vm_has_a_line(console: Console, march: None) -> None:
    console.runs("passing by", "vif8.0")
    lines = console.done("report", "--period", "2026-03").splitlines()
    assert lines[0].split()[:3] == ["VM", "PERIOD", "FROM"]
    assert lines[1].startswith("passing by  2026-03-01 00:00 UTC     0 B      0 B     0 B     -")
    assert lines[2].split() == "web1 2026-03-01 00:00 UTC 240 GB 5.00 GB 245 GB 49.0 800 kbit/s 0 kbit/s".split()


def test_the_present_period_is_the_default(console: Console, daemon: StandIn) -> None:
    console.run("addvm", "web1", "--limit", "500GB")
    now = datetime.now(UTC)
    start = period_at(now, 1, ZoneInfo("UTC")).start
    count(console, "web1", [Cell(Span.FIVE_MINUTES, start, Amounts(GB, 0))])
    assert "used             1.00 GB of 500 GB (0.2 %)\n" in console.done("report", "web1")


def test_of_hours_the_percentile_is_one_of_hours_and_says_so(console: Console, march: None) -> None:
    count(console, "web1", [Cell(Span.HOUR, utc("2026-03-31 23:00"), Amounts(1, 1))])
    assert "of 744 hourly values\n" in console.done("report", "web1", "--period", "2026-03")
    count(console, "web1", [Cell(Span.DAY, utc("2026-03-31"), Amounts(1, 1))])
    said = console.done("report", "web1", "--period", "2026-03")
    assert "95th percentile  unknown: neither five-minute values nor hours are kept of this period\n" in said
    assert "TOP HOURS" not in said
    (vm,) = json.loads(console.done("report", "web1", "--period", "2026-03", "--json"))["vms"]
    assert (vm["percentile_95"], vm["hours"]) == (None, [])


@pytest.mark.parametrize(("span", "kept"), [(Span.FIVE_MINUTES, "five-minute"), (Span.HOUR, "hourly")])
def test_in_the_first_minutes_of_a_period_the_percentile_is_unknown_yet(
    console: Console, daemon: StandIn, capsys: pytest.CaptureFixture[str], span: Span, kept: str
) -> None:
    with console.ledger() as ledger, ledger.transaction() as db:
        history.add(db, [(ledger.meet("web1", BEGIN).id, Cell(span, BEGIN, Amounts(5, 5)))])
    clock = HandClock(BEGIN + FIVE / 5)
    options = Namespace(name="web1", period=(2026, 3), link=False, html=None, json=None, csv=False)
    report.COMMAND.run(options, Context(config.load(console.config), answering("yes"), clock))
    said = capsys.readouterr().out
    assert f"95th percentile  unknown yet: the first {kept} value is not complete\n" in said
    assert "TOP HOURS" in said


# bad input


def test_an_unknown_vm_is_one_line_with_what_to_do(console: Console, march: None) -> None:
    result = console.run("report", "web2")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "xenbw: no VM named 'web2' is known (did you mean web1?)\n"


@pytest.mark.parametrize("typed", ["2026", "2026-13", "2026-1", "10-2026", "", "9999-01", "2026-10-01"])
def test_a_month_that_is_none_is_refused(console: Console, march: None, typed: str) -> None:
    result = console.run("report", "web1", "--period", typed)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"xenbw: not a month: {typed!r} (write it like 2026-10: the month in which the period began)\n"
    )


@pytest.mark.parametrize("words", [["web1"], []])
def test_a_period_in_the_future_is_refused(console: Console, march: None, words: list[str]) -> None:
    result = console.run("report", *words, "--period", "2199-12")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("xenbw: the period that begins 2199-12-01 00:00 UTC is in the future (the present")
    assert result.stderr.count("\n") == 1


def test_a_month_without_traffic_is_one_line(console: Console, march: None) -> None:
    assert console.done("report", "web1", "--period", "2026-01") == (
        "web1: nothing was counted in the period 2026-01-01 00:00 UTC to 2026-02-01 00:00 UTC\n"
    )
    assert console.done("report", "web1", "--period", "2026-01", "--csv").count("\n") == 1


def test_a_ledger_without_vms_says_how_to_add_one(console: Console, daemon: StandIn) -> None:
    with console.ledger():
        pass
    assert console.done("report") == "no VM is known yet: xenbw addvm adds one\n"


def test_csv_and_json_exclude_each_other(console: Console) -> None:
    assert console.run("report", "--csv", "--json").returncode == 2


def test_hostile_names_move_no_cursor_and_are_no_formula(console: Console, daemon: StandIn) -> None:
    name = '=cmd|\x1b[2J,"\n'
    console.runs(name)
    with console.ledger() as ledger:
        vm = ledger.vm_named(name)
        assert vm is not None
        cell = Cell(Span.FIVE_MINUTES, BEGIN, Amounts(1, 1))
        usagelog.commit(ledger, Pending((), (), (), ((vm.id, cell),)), Alive(BEGIN, 1.0, boot_id()))
    assert "\x1b" not in console.done("report", "--period", "2026-03")
    _, line = csv.reader(io.StringIO(console.done("report", "--period", "2026-03", "--csv")))
    assert line[0] == "'=cmd|\\x1b[2J,\"\\n"


@pytest.mark.parametrize("words", [["report"], ["report", "web1"], ["report", "--csv"]])
def test_a_closed_output_ends_it_quietly(console: Console, march: None, words: list[str]) -> None:
    shell = 'trap "" PIPE; { sleep 0.2; "$@"; echo $? >&2; } | true'
    result = console.run(*words, "--period", "2026-03", wrap=("sh", "-c", shell, "sh"))
    assert result.stderr == "141\n"

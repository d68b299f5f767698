"""xenbw explain: where a VM's usage came from, to the byte."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.support.console import Console, StandIn
from xenbw import config
from xenbw.accounting import Pending, Share, hour_of
from xenbw.clock import Moment, boot_id
from xenbw.judge.roster import Roster
from xenbw.ledger import aliases, digests, shared, usagelog, viflog
from xenbw.ledger.ledger import Alive
from xenbw.model import Amounts, Counters, Mark
from xenbw.report.table import local_time
from xenbw.units import format_time

LO = Path("/sys/class/net/lo/ifindex")


def counts(console: Console, name: str, binding_id: int, amounts: Amounts, *, by_nft: bool = True) -> None:
    """The interface counted that much now, as the daemon commits it."""
    now = datetime.now(UTC)
    with console.ledger() as ledger:
        roster = Roster(ledger, config.load(console.config))
        roster.load(Moment(now, trusted=True))
        vm_id, start = next((id_, e.period.start) for id_, e in roster.entries.items() if e.vm.name == name)
        mark = Mark(amounts.everything, amounts if by_nft else None)
        share = Share(start, hour_of(now), *amounts.usage, 0)
        pending = Pending(((binding_id, amounts, mark, now),), ((vm_id, share),), ((binding_id, start, amounts.usage),))
        usagelog.commit(ledger, pending, Alive(now, time.clock_gettime(time.CLOCK_BOOTTIME), boot_id()))


@pytest.fixture
def lives(console: Console, daemon: StandIn) -> list[int]:
    """web1 rebooted once: two interfaces, metered by the kernel and by nft."""
    first = console.runs("web1", "vif7.0")
    counts(console, "web1", first, Amounts(1_000, 200), by_nft=False)
    with console.ledger() as ledger:
        viflog.end(ledger, first, datetime.now(UTC), "offline")
    second = console.runs("web1", "vif8.0")
    counts(console, "web1", second, Amounts(1_234_567, 89, 60, 5, 7))
    return [first, second]


def table(console: Console, *words: str) -> list[list[str]]:
    """The rows of the explanation, without its times."""
    parts = console.done("explain", "web1", *words).split("\n\n")
    return [[word for word in line.split() if "-" not in word and ":" not in word] for line in parts[1].splitlines()]


def test_each_life_of_each_interface_has_its_line_and_they_add_up(console: Console, lives: list[int]) -> None:
    head, first, second, total = table(console)
    assert head == ["FROM", "TO", "DOMID", "INTERFACE", "ENDED", "METER", "IN", "OUT", "FLOOD", "REFUSED"]
    assert [word for word in first if word != "UTC"] == ["7", "vif7.0", "offline", "kernel", "1,000", "200", "0", "0"]
    assert [word for word in second if word != "UTC"] == ["7", "vif8.0", "nft", "1,234,567", "89", "60", "12"]
    assert total == ["TOTAL", "1,235,567", "289"]


def test_the_total_is_what_show_and_list_print(console: Console, lives: list[int]) -> None:
    explained = json.loads(console.done("explain", "web1", "--json"))
    shown = json.loads(console.done("show", "web1", "--json"))
    (listed,) = json.loads(console.done("list", "--json"))["vms"]
    for key in ("in_bytes", "out_bytes"):
        assert sum(part[key] for part in explained["parts"]) == explained[key] == shown[key] == listed[key]
    assert explained["parts"][1]["reason"] is None
    assert explained["audit"] is None
    assert [life["flood_bytes"] for life in shown["bindings"]] == [0, 60]
    assert [life["meter"] for life in shown["bindings"]] == ["kernel", "nft"]


def test_earlier_lives_are_one_line_and_the_total_stays_what_it_was(console: Console, lives: list[int]) -> None:
    before = json.loads(console.done("explain", "web1", "--json"))
    with console.ledger() as ledger:
        for number in range(3):
            ended = console.runs("web1", f"vif{number + 20}.0")
            viflog.end(ledger, ended, datetime.now(UTC), "offline")
        assert digests.fold(ledger, boot_id(), lambda: (), keep=1) == 3
    rows = table(console)
    assert [word for word in rows[1] if word != "UTC"] == ["(3", "lives)", "offline", "1,000", "200", "0", "0"]
    assert len(rows) == 5
    assert rows[-1] == ["TOTAL", "1,235,567", "289"]
    assert "\n3 earlier lives are summed up in one line; the latest 100 of a month have a line each\n" in (
        console.done("explain", "web1") + "\n"
    )
    after = json.loads(console.done("explain", "web1", "--json"))
    for key in ("in_bytes", "out_bytes"):
        assert sum(part[key] for part in after["parts"]) == after[key] == before[key]
    assert [part["lives"] for part in after["parts"]] == [3, 1, 1]
    assert after["parts"][0]["interface"] is None
    shown = json.loads(console.done("show", "web1", "--json"))
    assert [(one["lives"], one["in_bytes"]) for one in shown["earlier_lives"]] == [(3, 1000)]
    assert len(shown["bindings"]) == 2
    assert "(3 lives)" in console.done("show", "web1")


def test_usage_that_no_interface_counted_has_a_line_with_the_reason(console: Console, lives: list[int]) -> None:
    console.uses("web1", 5000, 6)
    with console.ledger() as ledger:
        vm = ledger.vm_named("web1")
        assert vm is not None
        assert vm.period_start is not None
        shared.set_elsewhere(ledger, vm.id, vm.period_start, Counters(70, 0))
    assert table(console)[-1] == ["TOTAL", "1,240,637", "295"]
    said = console.done("explain", "web1")
    assert "\n5,000 in and 6 out: not of an interface known here: taken over, or counted before version 0.2.0" in said
    assert "\n70 in and 0 out: on other hosts, as the book told\n" in said
    parts = json.loads(console.done("explain", "web1", "--json"))["parts"]
    assert [(part["in_bytes"], part["interface"], part["meter"]) for part in parts[2:]] == [
        (5000, None, None),
        (70, None, None),
    ]


def test_a_note_says_that_floods_may_be_older_than_the_period(console: Console, lives: list[int]) -> None:
    assert "FLOOD and REFUSED, which" not in console.done("explain", "web1")
    with console.ledger() as ledger, ledger.transaction() as db:
        db.execute("UPDATE binding SET started_at = '2020-01-01T00:00:00.000000+00:00' WHERE id = ?", (lives[1],))
    assert "FLOOD and REFUSED, which are not usage, are of an interface's whole life" in console.done("explain", "web1")


def test_gaps_in_nft_counters_while_the_vm_ran_are_listed(console: Console, lives: list[int]) -> None:
    now = datetime.now(UTC)
    with console.ledger() as ledger:
        ledger.record(now - timedelta(days=40), "meter-gap", "an older gap")
        ledger.record(now - timedelta(seconds=30), "meter-gap", "before it ran")
        ledger.record(now, "meter-gap", "a gap\x1b[2J")
        ledger.record(now, "note", "something else")
    heading, gap = console.done("explain", "web1").rstrip("\n").split("\n\n")[-1].splitlines()
    assert heading == "gaps in this host's nft counters while the interfaces existed"
    assert gap.endswith(r"UTC  a gap\x1b[2J")
    assert [gap["text"] for gap in json.loads(console.done("explain", "web1", "--json"))["gaps"]] == ["a gap\x1b[2J"]


def test_without_a_daemon_the_ledger_s_numbers_are_explained_with_a_note(console: Console) -> None:
    console.runs("web1", "vif7.0")
    result = console.run("explain", "web1")
    assert result.returncode == 0
    assert result.stderr == "note: xenbwd is not running: these numbers are as of its last commit\n"


def test_an_unknown_vm_is_an_error(console: Console, lives: list[int]) -> None:
    result = console.run("explain", "web2")
    assert (result.returncode, result.stderr) == (1, "xenbw: no VM named 'web2' is known (did you mean web1?)\n")


# the audit


def test_xenbw_s_counters_are_read_before_and_after_the_others(
    console: Console, daemon: StandIn, lives: list[int]
) -> None:
    daemon.asked.clear()
    console.done("explain", "web1", "--audit")
    # The first of them is for the explanation itself.
    assert daemon.asked == ["commit"] * 3


def test_an_interface_that_kernel_and_xentop_do_not_know_has_no_numbers_of_theirs(
    console: Console, lives: list[int]
) -> None:
    console.script("xentop", "exit 1\n")
    audit = json.loads(console.done("explain", "web1", "--audit", "--json"))["audit"]
    assert audit["no_xentop"] == "xentop: exit status 1"
    assert audit["stale"] is None
    (one,) = audit["interfaces"]
    assert (one["interface"], one["in_bytes"], one["out_bytes"]) == ("vif8.0", 1_234_567 + 60 + 5, 89 + 7)
    assert (one["kernel"], one["xentop"]) == (None, None)
    said = console.done("explain", "web1", "--audit").splitlines()
    assert ["xentop", "-", "-", "-", "-"] in [line.split() for line in said]
    assert said[-1] == "no counters of xentop: xentop: exit status 1"


def test_the_kernel_s_counters_are_compared_with_xenbw_s(console: Console, daemon: StandIn) -> None:
    index = LO.read_text().strip()
    binding_id = console.runs("web1", "lo")
    counts(console, "web1", binding_id, Amounts(2**62, 2**62))
    with console.ledger() as ledger, ledger.transaction() as db:
        db.execute("UPDATE binding SET ifindex = ?", (index,))
    (one,) = json.loads(console.done("explain", "web1", "--audit", "--json"))["audit"]["interfaces"]
    kernel = one["kernel"]
    assert kernel["drift_in_bytes"] == kernel["in_bytes"] - 2**62
    assert one["reason"] == "netback cleared its counters when the guest connected anew"
    assert f"lo: {one['reason']}" in console.done("explain", "web1", "--audit")


def test_without_a_daemon_the_audit_says_that_xenbw_s_counters_are_old(console: Console) -> None:
    console.runs("web1", "vif7.0")
    assert "xenbw's counters are old, so the difference is no drift: xenbwd is not running" in (
        console.run("explain", "web1", "--audit").stdout
    )


def test_a_vm_that_is_down_has_nothing_to_audit(console: Console, daemon: StandIn) -> None:
    with console.ledger() as ledger:
        ledger.meet("web1", datetime.now(UTC))
    assert console.done("explain", "web1", "--audit").endswith("audit: the VM has no interface to look at\n")


def test_a_vm_that_used_another_mac_is_told_until_when_it_has_no_flood(console: Console, lives: list[int]) -> None:
    sentence = "all that reaches its interfaces is usage: it used another MAC than Xen gave it"
    assert sentence not in console.done("explain", "web1")
    assert json.loads(console.done("explain", "web1", "--json"))["other_mac_until"] is None
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=24)
    with console.ledger() as ledger:
        aliases.keep(ledger, dict.fromkeys(ledger.vms(), until))
    told = local_time(until, ZoneInfo("UTC"))
    assert f"until {told} {sentence}" in console.done("explain", "web1")
    assert json.loads(console.done("explain", "web1", "--json"))["other_mac_until"] == format_time(until)
    with console.ledger() as ledger:
        aliases.keep(ledger, dict.fromkeys(ledger.vms(), datetime.now(UTC) - timedelta(seconds=1)))
    assert sentence not in console.done("explain", "web1")

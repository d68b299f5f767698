from __future__ import annotations

import json
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from tests.support.console import Console, StandIn
from xenbw.clock import boot_id
from xenbw.ledger import unmetered
from xenbw.ledger.unmetered import Unmetered
from xenbw.model import State
from xenbw.quota import period_at

KEYS = [
    "name",
    "running",
    "state",
    "reason",
    "period_start",
    "period_end",
    "in_bytes",
    "out_bytes",
    "used_bytes",
    "limit_bytes",
    "hard_limit_bytes",
    "rate_bits",
    "rate_in_bits",
    "count",
    "percent",
]


@pytest.fixture
def end(console: Console, daemon: StandIn) -> datetime:
    """Three VMs with traffic; the end of their period."""
    console.run("addvm", "web1", "--limit", "500GB", "--ip", "192.0.2.9")
    console.run("addvm", "ren", "--limit", "unlimited")
    console.runs("web1", "vif7.0", ips="192.0.2.9")
    console.runs("passing by", "vif8.0")
    console.uses("web1", 300 * 10**9, 117 * 10**9)
    console.uses("passing by", 1500, 0)
    daemon.asked.clear()
    return period_at(datetime.now(UTC), 1, ZoneInfo("UTC")).end


def test_list_shows_every_vm_and_marks_vms_that_nobody_added(console: Console, end: datetime) -> None:
    ends = end.strftime("%Y-%m-%d 00:00 UTC")
    assert console.done("list").splitlines() == [
        "VM            STATE      RUNNING       IN     OUT     USED      LIMIT     %  PERIOD ENDS",
        f"passing by *  unlimited  yes      1.50 KB     0 B  1.50 KB  unlimited     -  {ends}",
        f"ren           unlimited  no           0 B     0 B      0 B  unlimited     -  {ends}",
        f"web1          warned     yes       300 GB  117 GB   417 GB     500 GB  83.4  {ends}",
        "",
        "* not added: only metered (xenbw addvm VM adds it)",
    ]


def test_the_daemon_is_asked_to_write_its_latest_numbers_first(
    console: Console, daemon: StandIn, end: datetime
) -> None:
    console.done("list")
    console.done("show", "web1")
    assert daemon.asked == ["commit", "commit"]


def test_the_json_listing_has_exactly_the_documented_keys(console: Console, end: datetime) -> None:
    document = json.loads(console.done("list", "--json"))
    assert list(document) == ["host", "generated_at", "vms"]
    assert document["host"] == "dom0-a"
    assert [list(vm) for vm in document["vms"]] == [KEYS] * 3
    assert document["vms"][2] == {
        "name": "web1",
        "running": True,
        "state": "warned",
        "reason": "used 417 GB of 500 GB (in and out together): past 80 %",
        "period_start": document["vms"][2]["period_start"],
        "period_end": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "in_bytes": 300 * 10**9,
        "out_bytes": 117 * 10**9,
        "used_bytes": 417 * 10**9,
        "limit_bytes": 500 * 10**9,
        "hard_limit_bytes": None,
        "rate_bits": None,
        "rate_in_bits": None,
        "count": "total",
        "percent": 83.4,
    }


def test_without_a_daemon_the_ledger_s_numbers_are_shown_with_a_note(console: Console) -> None:
    with console.ledger() as ledger:
        ledger.meet("web1", datetime.now(UTC))
    for words in (["list"], ["list", "--json"], ["show", "web1"]):
        result = console.run(*words)
        assert result.returncode == 0
        assert "web1" in result.stdout
        assert result.stderr == "note: xenbwd is not running: these numbers are as of its last commit\n"


def test_a_note_says_that_the_daemon_cannot_write_its_numbers(console: Console, daemon: StandIn, end: datetime) -> None:
    daemon.writes = False
    assert console.run("list").stderr.startswith("note: xenbwd could not write to the ledger: these numbers are as of")


def test_a_ledger_without_vms_says_how_to_add_one(console: Console, daemon: StandIn) -> None:
    with console.ledger():
        pass
    assert console.done("list") == "no VM is known yet: xenbw addvm adds one\n"
    assert json.loads(console.done("list", "--json"))["vms"] == []


def test_the_footnote_says_whether_the_default_is_enforced(console: Console, end: datetime) -> None:
    console.config.write_text(console.config.read_text() + '[default]\nlimit = "1TB"\nenforce = true\n')
    assert console.done("list").endswith("* not added: held to the [default] allowance (xenbw addvm VM adds it)\n")


def test_a_binding_left_from_before_the_last_boot_does_not_run(console: Console, daemon: StandIn) -> None:
    console.runs("web1")
    with console.ledger() as ledger, ledger.transaction() as db:
        db.execute("UPDATE binding SET boot_id = 'an earlier one'")
    assert json.loads(console.done("list", "--json"))["vms"][0]["running"] is False


def test_a_hostile_name_is_shown_with_escapes(console: Console, daemon: StandIn) -> None:
    console.runs("a\x1b[2J\nb")
    assert r"a\x1b[2J\nb *  unlimited  yes" in console.done("list").splitlines()[1]


def test_show_tells_everything_about_one_vm(console: Console, end: datetime) -> None:
    console.done("block", "web1", "--reason", "abuse report 12")
    said = console.done("show", "web1")
    now = datetime.now(UTC).strftime("%Y-%m-%d")
    facts, blocks, events, bindings, history = (part.splitlines() for part in said.split("\n\n"))
    assert facts[:6] == [
        "VM                     web1",
        "state                  blocked: abuse report 12",
        "running                yes",
        "used                   417 GB of 500 GB (83.4 %)",
        "in                     300 GB",
        "out                    117 GB",
    ]
    assert facts[6] == "counted                total; warned at 80 %; past the limit: block"
    assert facts[7].endswith(end.strftime(" to %Y-%m-%d 00:00 UTC"))
    assert facts[9:] == [
        "addresses given        192.0.2.9",
        "config file            none",
        "allowed while blocked  as configured",
    ]
    assert blocks[0].split() == ["BLOCKED", "UNTIL", "LIFTED", "WHY"]
    assert blocks[1].startswith(now)
    assert blocks[1].endswith("admin: abuse report 12")
    assert events[0].split() == ["EVENT", "AT", "WHAT"]
    assert events[1].startswith(now)
    assert "abuse report 12" in events[1]
    assert bindings[0].split() == ["INTERFACE", "DOMID", "MAC", "IPS", "BRIDGE", "FROM", "TO", "ENDED", "IN", "OUT"]
    assert bindings[1].startswith(f"vif7.0     7      00:16:3e:77:00:0b  192.0.2.9  xenbr0  {now}")
    assert history[0].split() == ["PERIOD", "FROM", "IN", "OUT", "USED", "ESTIMATED"]
    assert history[1].endswith("UTC  300 GB  117 GB  417 GB        0 B")


def test_show_as_json_adds_blocks_bindings_and_history(console: Console, end: datetime) -> None:
    console.done("block", "web1", "--reason", "abuse report 12")
    document = json.loads(console.done("show", "web1", "--json"))
    assert list(document) == [*KEYS, "allow", "mail", "events", "blocks", "earlier_lives", "bindings", "history"]
    assert (document["state"], document["reason"]) == ("blocked", "abuse report 12")
    (block,), (binding,), (month,) = document["blocks"], document["bindings"], document["history"]
    assert (block["cause"], block["until"], block["lifted_at"]) == ("admin", None, None)
    assert (binding["interface"], binding["ips"], binding["ended_at"]) == ("vif7.0", ["192.0.2.9"], None)
    assert (month["period_start"], month["used_bytes"]) == (document["period_start"], 417 * 10**9)


def test_show_has_the_latest_ten_events_of_its_vm_newest_first_and_printable(
    console: Console, daemon: StandIn, end: datetime
) -> None:
    with console.ledger() as ledger:
        web1, other = ledger.vm_named("web1"), ledger.meet("other", datetime.now(UTC))
        assert web1 is not None
        for number in range(12):
            ledger.record(datetime.now(UTC), "note", f"number {number} \x1b[2J", web1.id)
            ledger.record(datetime.now(UTC), "note", "of another VM", other.id)
    found = json.loads(console.done("show", "web1", "--json"))["events"]
    assert [event["text"] for event in found] == [f"number {number} \x1b[2J" for number in range(11, 1, -1)]
    said = console.done("show", "web1")
    assert r"number 11 \x1b[2J" in said
    assert "\x1b" not in said
    assert "of another VM" not in said


# who is not metered


def not_metered(console: Console, name: str, *, wholly: bool = True, boot: str | None = None) -> None:
    """What the daemon found of a running VM."""
    with console.ledger() as ledger:
        vm = ledger.vm_named(name) or ledger.meet(name, datetime.now(UTC))
        unmetered.keep(ledger, boot or boot_id(), {vm.id: Unmetered(wholly, "it has no vif in this dom0")})


def test_a_vm_whose_traffic_is_not_metered_is_shown_as_unmetered_and_never_as_zero(
    console: Console, daemon: StandIn
) -> None:
    console.run("addvm", "web1", "--limit", "500GB")
    not_metered(console, "web1")
    lines = console.done("list").splitlines()
    assert lines[1].split()[:8] == ["web1", "unmetered", "yes", "-", "-", "-", "500", "GB"]
    assert lines[-1] == "unmetered: its traffic does not pass through this dom0 (xenbw show VM says why)"
    (vm,) = json.loads(console.done("list", "--json"))["vms"]
    assert (vm["state"], vm["reason"], vm["running"]) == ("unmetered", "it has no vif in this dom0", True)
    said = console.done("show", "web1")
    assert "state                  unmetered: it has no vif in this dom0\n" in said
    assert "used                   0 B of 500 GB (0.0 %), as far as it was metered\n" in said
    assert "state   unmetered: it has no vif in this dom0\n" in console.done("explain", "web1")


def test_usage_from_before_a_vm_became_unmetered_is_still_shown(console: Console, daemon: StandIn) -> None:
    console.run("addvm", "web1", "--limit", "500GB")
    console.uses("web1", 10**9, 0)
    not_metered(console, "web1")
    assert console.done("list").splitlines()[1].split()[1:6] == ["unmetered", "yes", "1.00", "GB", "-"]


def test_a_blocked_vm_that_becomes_unmetered_stays_blocked(console: Console, daemon: StandIn) -> None:
    console.run("addvm", "web1", "--limit", "500GB")
    console.run("block", "web1", "--reason", "abuse")
    not_metered(console, "web1")
    (vm,) = json.loads(console.done("list", "--json"))["vms"]
    assert (vm["state"], vm["reason"]) == ("blocked", "abuse; not metered: it has no vif in this dom0")


def test_the_reason_says_that_only_part_of_a_vm_s_traffic_is_metered(console: Console, daemon: StandIn) -> None:
    console.runs("web1")
    not_metered(console, "web1", wholly=False)
    (vm,) = json.loads(console.done("list", "--json"))["vms"]
    assert (vm["state"], vm["reason"]) == (
        "unlimited",
        "no allowance is set; not metered: it has no vif in this dom0",
    )


def test_a_vm_that_has_got_a_vif_since_the_survey_is_metered(console: Console, daemon: StandIn) -> None:
    not_metered(console, "web1")
    console.runs("web1")
    (vm,) = json.loads(console.done("list", "--json"))["vms"]
    assert (vm["state"], vm["reason"]) == ("unlimited", "no allowance is set")


def test_a_survey_from_before_the_last_boot_is_not_shown(console: Console, daemon: StandIn) -> None:
    not_metered(console, "web1", boot="an earlier one")
    (vm,) = json.loads(console.done("list", "--json"))["vms"]
    assert (vm["state"], vm["running"]) == ("unlimited", False)


# who is over


def test_a_vm_that_is_blocked_just_below_its_limit_is_over(console: Console, daemon: StandIn) -> None:
    for name in ("blocked", "nearly", "throttled"):
        console.run("addvm", name, "--limit", "1GB", "--force")
        console.uses(name, 10**9 - 1000, 0)
    with console.ledger() as ledger:
        for name, state in (("blocked", State.OVER), ("throttled", State.THROTTLED)):
            vm = ledger.vm_named(name)
            assert vm is not None
            ledger.set_vm(vm.id, state=state, state_since=datetime.now(UTC))
    found = json.loads(console.done("list", "--over", "--json"))["vms"]
    assert [(vm["name"], vm["reason"][-21:]) for vm in found] == [
        ("blocked", "used up its allowance"),
        ("throttled", "used up its allowance"),
    ]


def test_a_vm_past_its_hard_limit_is_over_though_it_has_no_other_limit(console: Console, daemon: StandIn) -> None:
    for name, in_bytes in (("past", 10**9 + 1), ("below", 10**9 - 1)):
        console.run("addvm", name, "--limit", "unlimited", "--hard-limit", "1GB", "--force")
        console.uses(name, in_bytes, 0)
    (vm,) = json.loads(console.done("list", "--over", "--json"))["vms"]
    assert (vm["name"], vm["state"]) == ("past", "over")

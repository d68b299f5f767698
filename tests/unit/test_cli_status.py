from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tests.support.console import Console, StandIn
from xenbw.clock import boot_id
from xenbw.doctor import last
from xenbw.doctor.finding import Finding, Level, good
from xenbw.ledger import outbox, unmetered
from xenbw.ledger.outbox import Channel
from xenbw.ledger.unmetered import Unmetered
from xenbw.units import format_size

NOW = datetime.now(UTC)


@pytest.fixture
def blocked(console: Console, daemon: StandIn) -> None:
    """web1 is null-routed, ren is in good standing, one mail waits."""
    console.run("addvm", "web1", "--limit", "1GB", "--ip", "2001:db8::9", "192.0.2.9")
    console.run("addvm", "ren", "--limit", "1GB", "--ip", "192.0.2.10")
    console.run("block", "web1", "--reason", "abuse")
    with console.ledger() as ledger:
        outbox.queue(ledger, NOW, "subject", "body")


@pytest.mark.usefixtures("blocked")
def test_status_shows_that_everything_works(console: Console) -> None:
    said = console.done("status").splitlines()
    size = sum(
        file.stat().st_size for file in console.ledger_path.parent.glob("ledger.db*") if file.suffix != ".db-shm"
    )
    assert said[:9] == [
        "xenbwd         running, version 0.1.0",
        "meter          kernel",
        f"ledger         {console.ledger_path}, {format_size(size)}",
        "allowances     held by xenbwd alone: tripwires in the kernel need the meter nft",
        "VMs            2: 1 blocked, 1 ok",
        "null routes    2",
        "               192.0.2.9 web1",
        "               2001:db8::9 web1",
        "mails waiting  1",
    ]
    assert said[9:11] == ["", "newest events"]
    assert said[11].endswith("UTC  web1 null-routed: abuse: 192.0.2.9, 2001:db8::9")
    assert len(said[11:]) == 3


@pytest.mark.usefixtures("blocked")
@pytest.mark.parametrize(
    ("method", "commands"),
    [
        ("iptables", "iptables-legacy -S XENBW, ip6tables-legacy -S XENBW"),
        ("nft", "nft list table inet xenbw-null"),
    ],
)
def test_status_prints_the_commands_that_show_the_null_routes(console: Console, method: str, commands: str) -> None:
    with console.ledger() as ledger:
        ledger.set_meta("null_routes", method)
    assert f"null routes    2 ({commands})\n" in console.done("status")


def test_problems_come_first_each_on_a_line_of_its_own(console: Console, daemon: StandIn) -> None:
    with console.ledger():
        pass
    daemon.problems += ["web1: THE BLOCK DOES NOT HOLD", "two\nlines\x1b[2J"]
    assert console.done("status").splitlines()[:2] == ["! web1: THE BLOCK DOES NOT HOLD", r"! two\nlines\x1b[2J"]


def test_the_vms_that_flood_are_named(console: Console, daemon: StandIn) -> None:
    with console.ledger():
        pass
    assert "floods" not in console.done("status")
    daemon.floods += ["web1", "two\nlines"]
    assert r"floods         web1, two\nlines" in console.done("status").splitlines()
    assert json.loads(console.done("status", "--json"))["daemon"]["floods"] == ["web1", "two\nlines"]


def test_the_number_of_waiting_messages_is_followed_by_the_delivery_error(console: Console, daemon: StandIn) -> None:
    with console.ledger() as ledger:
        for channel in Channel:
            for _ in range(2):
                outbox.queue(ledger, NOW, "subject", "body", channel)
        outbox.postpone(ledger, 1, NOW, "/usr/sbin/sendmail ended with status 75")
        outbox.postpone(ledger, 3, NOW, "two\nlines")
    lines = console.done("status").splitlines()
    assert "mails waiting     2: /usr/sbin/sendmail ended with status 75" in lines
    assert r"commands waiting  2: two\nlines" in lines
    document = json.loads(console.done("status", "--json"))
    assert (document["mails_waiting"], document["commands_waiting"]) == (2, 2)
    assert document["delivery_failures"] == {
        "mail": "/usr/sbin/sendmail ended with status 75",
        "command": "two\nlines",
    }


def test_a_daemon_that_does_not_run_is_a_failure(console: Console) -> None:
    with console.ledger() as ledger:
        ledger.meet("web1", NOW)
    result = console.run("status")
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.startswith(
        "! xenbwd is not running: nothing is metered (systemctl start xenbwd)\nxenbwd         NOT RUNNING\n"
    )
    assert "VMs            1: 1 unlimited\n" in result.stdout


def test_a_ledger_that_cannot_be_read_is_a_failure_and_the_rest_is_still_shown(
    console: Console, daemon: StandIn
) -> None:
    result = console.run("status")
    assert result.returncode == 1
    assert result.stdout.startswith(f"! {console.ledger_path}: there is no ledger yet")
    assert "xenbwd         running, version 0.1.0" in result.stdout
    assert f"ledger         {console.ledger_path}, missing\n" in result.stdout


@pytest.mark.usefixtures("blocked")
def test_status_as_json(console: Console) -> None:
    document = json.loads(console.done("status", "--json"))
    assert list(document) == [
        "host",
        "generated_at",
        "daemon",
        "ledger",
        "states",
        "unmetered",
        "null_routes",
        "mails_waiting",
        "commands_waiting",
        "webhooks_waiting",
        "delivery_failures",
        "problems",
        "events",
        "doctor",
    ]
    assert document["daemon"]["meter"] == "kernel"
    assert document["states"] == {"ok": 1, "blocked": 1}
    assert document["null_routes"] == {"192.0.2.9": "web1", "2001:db8::9": "web1"}
    assert (document["mails_waiting"], document["problems"]) == (1, [])
    assert [event["kind"] for event in document["events"]] == ["null-routed", "added", "added"]
    assert document["doctor"] is None


def test_the_result_of_the_last_doctor_is_one_line(console: Console, daemon: StandIn) -> None:
    with console.ledger():
        pass
    found = [Finding(Level.FAIL, "hook", "web1"), Finding(Level.WARN, "clock", ""), Finding(Level.WARN, "book", "")]
    last.keep(console.run_dir, last.document([*found, good("xen", "")], datetime(2026, 11, 23, 4, 38, tzinfo=UTC)))
    assert "doctor         2026-11-23 04:38 UTC: 1 FAIL, 2 WARN" in console.done("status").splitlines()
    document = json.loads(console.done("status", "--json"))
    assert document["doctor"] == {"at": "2026-11-23T04:38:00Z", "fail": 1, "warn": 2}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"generated_at": "never", "findings": []}', "\xff"])
def test_a_result_of_doctor_that_cannot_be_read_is_left_out(console: Console, daemon: StandIn, text: str) -> None:
    with console.ledger():
        pass
    last.path(console.run_dir).write_text(text, encoding="latin-1")
    assert json.loads(console.done("status", "--json"))["doctor"] is None


def test_unmetered_vms_are_named_with_the_reason(console: Console, daemon: StandIn) -> None:
    with console.ledger() as ledger:
        vm_id = ledger.meet("novif", NOW).id
        unmetered.keep(ledger, boot_id(), {vm_id: Unmetered(True, "it has no vif in this dom0")})
    assert "unmetered      novif: it has no vif in this dom0" in console.done("status").splitlines()
    document = json.loads(console.done("status", "--json"))
    assert document["states"] == {"unmetered": 1}
    assert document["unmetered"] == {"novif": "it has no vif in this dom0"}


def test_without_a_daemon_the_json_s_daemon_is_null(console: Console) -> None:
    with console.ledger():
        pass
    result = console.run("status", "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout)["daemon"] is None
    assert json.loads(result.stdout)["problems"] == [
        "xenbwd is not running: nothing is metered (systemctl start xenbwd)"
    ]

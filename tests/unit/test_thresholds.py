"""The thresholds at which a VM is warned: each is told once a period, and again after a raise."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.books import add_vm, open_ledger, vm_of
from tests.support.console import Console
from tests.support.guarded import END, Host, MethodStandIn
from xenbw import config, quota
from xenbw.config import CommandSection, DaemonSection, MailSection, Settings
from xenbw.errors import UsageError
from xenbw.ledger import outbox, rescue, schema, vmlog
from xenbw.ledger.ledger import Ledger
from xenbw.model import VM, Action, State

HOUR = timedelta(hours=1)
MB = 10**6


@pytest.fixture
def host(ledger: Ledger, tmp_path: Path) -> Host:
    """A host with web1, which has 1000 bytes and is warned at 75, 90 and 100 %."""
    mail = MailSection(to=("noc@example.com",))
    found = Host(ledger, Settings(daemon=DaemonSection(run_dir=tmp_path / "run"), mail=mail), MethodStandIn())
    change(found, warn_percent=75, warn_percents=(75, 90, 100))
    found.restart()
    return found


def change(host: Host, **facts: object) -> None:
    host.ledger.set_vm(host.web1, **facts)


def told(host: Host) -> list[str]:
    """What the mails say, each threshold as "75"."""
    return [mail.removeprefix("traffic warning, ").removesuffix(" % used") for mail in host.mails()]


def judge(host: Host, *usages: int) -> list[str]:
    """The mails so far after the VM was judged with each usage."""
    for used in usages:
        host.judge(used)
    return told(host)


# telling


def test_a_vm_that_passed_thresholds_before_it_was_added_is_told_of_when_it_is(host: Host) -> None:
    change(host, added_at=None, action=Action.WARN)
    assert judge(host, 950, 1001) == []
    before = vm_of(host.ledger, host.web1)
    change(host, **vmlog.added(host.ledger, before, host.at))
    assert judge(host, 1001, 1001) == ["over its allowance, not blocked"]
    assert vm_of(host.ledger, host.web1).state_reason.startswith("used 1.00 KB of 1.00 KB")
    change(host, **vmlog.added(host.ledger, vm_of(host.ledger, host.web1), host.at))
    assert judge(host, 1001) == ["over its allowance, not blocked"]


def test_each_threshold_is_told_once_and_the_last_by_the_block(host: Host) -> None:
    assert judge(host, 749) == []
    assert judge(host, 750, 760, 899) == ["75"]
    assert judge(host, 900, 950, 999, 1000) == ["75", "90"]
    assert judge(host, 1001, 1001) == ["75", "90", "null-routed"]


def test_with_the_action_warn_the_message_that_it_is_over_tells_100_percent(host: Host) -> None:
    change(host, action=Action.WARN)
    assert judge(host, 900, 1000, 1001, 1200) == ["90", "over its allowance, not blocked"]


def test_of_several_thresholds_reached_at_once_only_the_highest_is_told(host: Host) -> None:
    assert judge(host, 950) == ["90"]
    assert judge(host, 999) == ["90"]
    assert host.events() == ["warned"]


def test_a_vm_at_exactly_its_limit_is_told_the_highest_threshold_below_it(host: Host) -> None:
    assert judge(host, 1000) == ["90"]
    change(host, warn_percent=100, warn_percents=None, threshold=0)
    assert judge(host, 1000) == ["90"]
    assert vm_of(host.ledger, host.web1).state is State.WARNED


def test_the_state_is_warned_from_the_first_threshold_on_and_the_reason_names_the_last_reached(host: Host) -> None:
    host.judge(750)
    since = vm_of(host.ledger, host.web1).state_since
    host.at += HOUR
    host.judge(900)
    vm = vm_of(host.ledger, host.web1)
    assert (vm.state, vm.state_since) == (State.WARNED, since)
    assert vm.state_reason == "used 900 B of 1.00 KB (in and out together): past 90 %"


def test_a_restart_tells_no_threshold_again(host: Host) -> None:
    assert judge(host, 760) == ["75"]
    host.restart()
    assert judge(host, 760) == ["75"]
    assert judge(host, 910) == ["75", "90"]
    host.restart()
    assert judge(host, 910, 920) == ["75", "90"]


def test_a_raise_lets_a_threshold_be_told_again_once_it_is_reached_again(host: Host) -> None:
    assert judge(host, 950) == ["90"]
    change(host, limit_bytes=1200)  # 79 %
    assert judge(host, 950) == ["90"]
    host.restart()
    assert judge(host, 960) == ["90"]
    assert judge(host, 1080, 1090) == ["90", "90"]
    change(host, limit_bytes=2000)  # below the first
    assert judge(host, 1090) == ["90", "90"]
    assert judge(host, 1500, 1510) == ["90", "90", "75"]


def test_a_raise_that_leaves_the_usage_past_a_threshold_tells_nothing(host: Host) -> None:
    assert judge(host, 950) == ["90"]
    change(host, limit_bytes=1010)
    assert judge(host, 950, 960) == ["90"]


def test_a_vm_that_a_raise_releases_is_told_only_the_thresholds_that_it_reaches_from_then_on(host: Host) -> None:
    change(host, limit_bytes=1000 * MB)
    assert judge(host, 1001 * MB) == ["null-routed"]
    change(host, limit_bytes=1200 * MB)  # 83 %
    assert judge(host, 1001 * MB) == ["null-routed", "released"]
    assert judge(host, 1080 * MB) == ["null-routed", "released", "90"]


def test_a_new_period_tells_each_again(host: Host) -> None:
    assert judge(host, 760) == ["75"]
    host.new_period()
    assert vm_of(host.ledger, host.web1).threshold == 0
    assert judge(host, 0, 760) == ["75", "75"]


def test_usage_that_is_past_a_threshold_as_the_period_begins_is_told(host: Host) -> None:
    assert judge(host, 760) == ["75"]
    host.new_period()
    assert judge(host, 770) == ["75", "75"]


def test_a_threshold_that_is_added_below_the_usage_is_told_and_one_that_is_taken_away_is_not(host: Host) -> None:
    assert judge(host, 850) == ["75"]
    change(host, warn_percents=(75, 80))
    assert judge(host, 850) == ["75", "80"]
    change(host, warn_percents=None)
    assert judge(host, 860) == ["75", "80"]


def test_a_vm_that_an_older_xenbw_warned_is_not_told_again(host: Host) -> None:
    change(host, state=State.WARNED, threshold=None)
    assert judge(host, 760) == []
    assert vm_of(host.ledger, host.web1).threshold == 75
    assert judge(host, 900) == ["90"]


def test_a_vm_that_nobody_added_is_told_nothing(host: Host) -> None:
    change(host, added_at=None)
    assert judge(host, 760, 910, 1001) == []


def test_a_warned_vm_is_judged_again_at_the_next_threshold(host: Host) -> None:
    allowance = host.roster.entries[host.web1].allowance
    assert [quota.ceiling(allowance, State.WARNED, reached) for reached in (75, 90, 100)] == [900, 1000, 1001]


def test_the_mail_and_the_json_name_the_threshold(host: Host) -> None:
    host.settings = replace(host.settings, command=CommandSection(run=("/bin/true",)))
    host.restart()
    host.judge(910)
    host.judge(1001)
    sent = outbox.due(host.ledger, host.at, host.at + HOUR)
    assert any("web1 has used 90 % of its 1.00 KB." in message.body for message in sent)
    documents = [json.loads(message.body) for message in sent if message.body.startswith("{")]
    assert [(one["kind"], one["threshold"]) for one in documents] == [("warned", 90), ("null-routed", None)]


# settings


@pytest.mark.parametrize(
    ("warn", "thresholds"), [("80", (80,)), ("[90]", (90,)), ("[100, 75, 90, 75]", (75, 90, 100)), (None, (80,))]
)
def test_the_configuration_has_one_threshold_or_a_list(
    warn: str | None, thresholds: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "xenbw.toml"
    path.write_text("" if warn is None else f"[default]\nwarn = {warn}\n")
    assert config.load(path).default_allowance.thresholds == thresholds


@pytest.mark.parametrize("warn", ["0", "101", "true", "80.0", '"80"', "[]", "[0]", "[75, 101]", "[75, true]", "[[75]]"])
def test_a_threshold_that_is_no_percentage_is_refused_in_one_line(warn: str, tmp_path: Path) -> None:
    path = tmp_path / "xenbw.toml"
    path.write_text(f"[default]\nwarn = {warn}\n")
    with pytest.raises(UsageError, match="a whole number from 1 to 100 percent, or a list of them") as failure:
        config.load(path)
    assert len(str(failure.value).splitlines()) == 1


@pytest.mark.usefixtures("daemon")
def test_addvm_sets_one_threshold_or_several_and_the_screens_show_them(console: Console) -> None:
    said = console.done("addvm", "web1", "--limit", "1TB", "--warn", "90,75,100", "--ip", "192.0.2.9").splitlines()
    assert "warn 75, 90 and 100 %" in said[-1]
    vm = console.vm("web1")
    assert (vm.warn_percent, vm.warn_percents, vm.thresholds) == (75, (75, 90, 100), (75, 90, 100))
    assert "warned at 75, 90 and 100 %" in console.done("show", "web1")
    said = console.done("addvm", "web1", "--warn", "60").splitlines()
    assert said[-1] == "web1: warn 75, 90 and 100 % -> 60 %"
    assert console.vm("web1").thresholds == (60,)


@pytest.mark.parametrize("words", ["", "0", "75,", "75,101", "75;90", "75, 90", "eighty", "\u0667\u0665", "9" * 5000])
def test_addvm_refuses_another_word_in_one_line(words: str, console: Console) -> None:
    done = console.run("addvm", "web1", "--force", "--limit", "1TB", "--warn", words)
    assert done.returncode == 2
    assert "not a percentage to warn at" in done.stderr
    assert "Traceback" not in done.stderr


# older programs


@pytest.mark.parametrize(
    ("number", "listed", "thresholds"),
    [
        (None, None, None),
        (70, None, (70,)),
        (75, (75, 90), (75, 90)),
        (60, (75, 90), (60,)),  # an older xenbw changed the number
        (None, (75, 90), None),
        (75, (), (75,)),
    ],
)
def test_a_list_holds_only_while_it_begins_with_the_number(
    number: int | None, listed: tuple[int, ...] | None, thresholds: tuple[int, ...] | None, ledger: Ledger
) -> None:
    vm_id = add_vm(ledger, "web1", END, warn_percent=number, warn_percents=listed)
    assert vm_of(ledger, vm_id).thresholds == thresholds


def test_a_ledger_of_the_version_before_keeps_its_threshold(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as db:
        for script in schema.MIGRATIONS[:5]:
            db.executescript(script)
        db.execute("PRAGMA user_version = 5")
        db.execute("INSERT INTO vm (id, name, found_at, warn_percent, rev) VALUES (1, 'web1', '2026-03-01', 70, 1)")
    with closing(open_ledger(tmp_path)) as ledger:
        vm: VM = vm_of(ledger, 1)
        assert (vm.thresholds, vm.threshold, vm.forecast_at) == ((70,), None, None)


@pytest.mark.parametrize("text", ["", "0", "75 101", "90 75", "75 75", "75 x"])
def test_a_list_that_xenbw_cannot_have_written_is_damage_to_itself_alone(text: str, tmp_path: Path) -> None:
    with closing(open_ledger(tmp_path)) as ledger:
        vm_id = add_vm(ledger, "web1", END, warn_percent=75, limit_bytes=1000)
        ledger.set_vm(vm_id, warn_percents=text)
    with closing(rescue.open_or_replace(tmp_path / "ledger.db", None, END)) as ledger:
        vm = vm_of(ledger, vm_id)
        assert (vm.warn_percents, vm.thresholds, vm.limit_bytes) == (None, (75,), 1000)


def test_an_older_daemon_works_with_the_new_ledger(ledger: Ledger) -> None:
    """It inserts and updates by name, and knows none of the new columns."""
    vm_id = add_vm(ledger, "web1", END, warn_percent=75, warn_percents=(75, 90), threshold=75)
    facts: dict[str, Any] = {"warn_percent": 60, "state": State.WARNED}
    ledger.set_vm(vm_id, **facts)
    assert vm_of(ledger, vm_id).thresholds == (60,)

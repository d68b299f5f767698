"""Forecast alerts: told once it is sure that a VM will cross its allowance, and again when that changes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.books import add_vm, vm_of
from tests.support.clock import utc
from tests.support.guarded import Host, MethodStandIn
from xenbw.accounting import HOUR, Pending, Share, Tally
from xenbw.config import CommandSection, DaemonSection, MailSection, Settings
from xenbw.judge.forecasts import Forecasts
from xenbw.ledger import eventlog, outbox, usagelog
from xenbw.ledger.ledger import Alive, Ledger
from xenbw.model import Counters, State

DAY = timedelta(days=1)
NOW, MARCH = utc("2026-03-20 12:00"), utc("2026-03-01")
STEADY = 2  # bytes an hour: 1000 are used 250 h after 500 were, on 2026-03-30 22:00


class Story:
    """A host with web1, which has 1000 bytes in March and used 500 of them."""

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        mail, command = MailSection(to=("noc@example.com",)), CommandSection(run=("/bin/true",))
        settings = Settings(daemon=DaemonSection(run_dir=folder / "run"), mail=mail, command=command)
        self.host = Host(ledger, settings, MethodStandIn())
        self.ledger, self.web1, self.at, self.elapsed = ledger, self.host.web1, NOW, 1000.0
        self.used = 500
        self.restart()

    def restart(self) -> None:
        """Another daemon takes over."""
        self.host.restart()
        self.tally = Tally()
        for binding in self.ledger.live_bindings().values():
            self.tally.follow(binding, NOW)
        self.forecasts = Forecasts(self.ledger, self.tally, self.host.roster, self.host.judging)

    def uses(self, amount: int, since: datetime, until: datetime) -> None:
        """So many bytes were used in each of these hours."""
        hours = [since + n * HOUR for n in range(int((until - since) / HOUR))]
        shares = tuple((self.web1, Share(MARCH, hour, amount, 0, 0)) for hour in hours)
        usagelog.commit(self.ledger, Pending((), shares), Alive(NOW, 1000.0, "boot"))

    def looks(self, times: int = 1, **later: float) -> list[str]:
        """Time passes, an hour if not told otherwise, before each look. Returns what the log said meanwhile."""
        for _ in range(times):
            step = timedelta(**later) if later else HOUR
            self.at, self.elapsed = self.at + step, self.elapsed + step.total_seconds()
            self.host.at = self.at
            self.host.judge(self.used)
            self.tally.usage[self.web1] = Counters(self.used, 0)
            self.forecasts.look(self.at, self.elapsed)
        return [line.text for line in self.host.judging.news.take() if line.event.startswith("forecast")]

    def told(self) -> list[str]:
        return [kind for _, kind, _ in reversed(eventlog.newest(self.ledger, 100)) if kind.startswith("forecast")]


@pytest.fixture
def story(ledger: Ledger, tmp_path: Path) -> Story:
    return Story(ledger, tmp_path)


@pytest.fixture
def sure(story: Story) -> Story:
    """A forecast for web1 was told."""
    story.uses(STEADY, NOW - 7 * DAY, NOW + 7 * DAY)
    assert story.looks(2) == ["web1 forecast: at this rate it crosses its 1.00 KB on 2026-03-31 00:00 UTC"]
    return story


def test_a_forecast_is_told_once_two_looks_agree_and_not_again(sure: Story) -> None:
    assert sure.looks(5) == []
    assert sure.told() == ["forecast"]
    assert vm_of(sure.ledger, sure.web1).forecast_at == utc("2026-03-31")


def test_one_look_is_not_enough(story: Story) -> None:
    story.uses(STEADY, NOW - 7 * DAY, NOW + DAY)
    assert story.looks() == []
    # The next look at a VM is an hour later.
    assert story.looks(5, minutes=10) == []
    assert len(story.looks(minutes=10)) == 1


def test_without_two_days_of_history_nothing_is_told(story: Story) -> None:
    story.uses(STEADY, NOW - 40 * HOUR, NOW + 2 * DAY)
    assert story.looks(7) == []
    assert len(story.looks(3)) == 1


def test_a_sum_that_another_program_counted_is_no_history_and_brings_no_forecast(story: Story) -> None:
    usagelog.credit(story.ledger, story.web1, MARCH, NOW - 3 * DAY, 500)
    story.uses(STEADY, NOW - DAY, NOW + 7 * DAY)
    assert story.looks(3) == []
    assert len(story.looks(24)) == 1


def test_a_vm_that_will_not_cross_its_allowance_in_its_period_is_told_nothing(story: Story) -> None:
    story.uses(1, NOW - 7 * DAY, NOW + 2 * DAY)
    assert story.looks(30) == []


def test_two_looks_that_differ_by_more_than_a_day_tell_nothing(story: Story) -> None:
    story.uses(STEADY, NOW - 7 * DAY, NOW + DAY)
    for used in (500, 700, 500, 700):
        story.used = used
        assert story.looks() == []


def test_a_restart_does_not_tell_it_again(sure: Story) -> None:
    sure.restart()
    assert sure.looks(5) == []
    assert sure.told() == ["forecast"]


def test_it_is_told_again_when_it_moves_by_more_than_a_day(sure: Story) -> None:
    sure.used = 530  # 15 h less
    assert sure.looks(2) == []
    sure.used = 600
    assert sure.looks() == []
    assert sure.looks() == ["web1 forecast: at this rate it crosses its 1.00 KB on 2026-03-29 02:00 UTC"]
    said = "Until now it was expected to cross it on 2026-03-31 00:00 UTC."
    assert [said in message.body for message in _mails(sure)] == [False, False, True, True]


def test_it_is_off_after_a_raise_and_told_anew_when_it_is_sure_again(sure: Story) -> None:
    sure.ledger.set_vm(sure.web1, limit_bytes=5000)
    assert sure.looks(2) == ["web1 forecast off: it is no longer expected to cross its 5.00 KB before its period ends"]
    assert vm_of(sure.ledger, sure.web1).forecast_at is None
    assert sure.looks(3) == []
    sure.ledger.set_vm(sure.web1, limit_bytes=1000)
    assert len(sure.looks(2)) == 1
    assert sure.told() == ["forecast", "forecast-off", "forecast"]


def test_a_crossing_near_the_end_of_the_period_does_not_come_and_go(story: Story) -> None:
    story.uses(STEADY, NOW - 7 * DAY, NOW + DAY)
    story.used = 470
    assert story.looks(2) == ["web1 forecast: at this rate it crosses its 1.00 KB on 2026-03-31 15:00 UTC"]
    for used in (450, 470, 450, 470):
        story.used = used
        assert story.looks(2) == []


def test_a_vm_that_has_crossed_its_allowance_is_told_by_the_block_alone(sure: Story) -> None:
    sure.used = 1001
    assert sure.looks(3) == []
    vm = vm_of(sure.ledger, sure.web1)
    assert (vm.state, vm.forecast_at) == (State.OVER, None)


def test_a_vm_whose_allowance_was_taken_away_is_told_nothing(sure: Story) -> None:
    sure.ledger.set_vm(sure.web1, limit_bytes=None, unlimited=True)
    assert sure.looks(3) == []
    assert vm_of(sure.ledger, sure.web1).forecast_at is None


def test_a_new_period_begins_without_a_forecast(sure: Story) -> None:
    sure.host.new_period()
    assert sure.host.roster.entries[sure.web1].vm.forecast_at is None
    assert vm_of(sure.ledger, sure.web1).forecast_at is None
    assert sure.told() == ["forecast"]


def test_a_vm_that_does_not_run_is_neither_told_nor_off(sure: Story) -> None:
    sure.tally.tracked.clear()
    sure.ledger.set_vm(sure.web1, limit_bytes=5000)
    assert sure.looks(4) == []


def test_a_vm_that_nobody_added_is_told_nothing(story: Story) -> None:
    story.ledger.set_vm(story.web1, added_at=None)
    story.uses(STEADY, NOW - 7 * DAY, NOW + 2 * DAY)
    assert story.looks(4) == []


def test_the_mail_and_the_json_say_when(sure: Story) -> None:
    mail, command = _mails(sure)
    assert mail.subject == "[xenbw] web1: will cross its allowance on 2026-03-31 00:00 UTC"
    assert mail.body.startswith(
        "web1 crosses its 1.00 KB on 2026-03-31 00:00 UTC, if it goes on as in the last seven days.\n"
        "\n"
        "It has used 500 B of 1.00 KB (in and out together). Nothing is blocked yet.\n"
    )
    document = json.loads(command.body)
    assert (document["kind"], document["crosses_at"], document["threshold"]) == (
        "forecast",
        "2026-03-31T00:00:00Z",
        None,
    )
    assert document["used_bytes"] == 500


def _mails(story: Story) -> list[outbox.Message]:
    return outbox.due(story.ledger, story.at, story.at + HOUR)


def test_of_many_vms_a_few_are_looked_at_in_each_call_and_all_in_an_hour(story: Story) -> None:
    for number in range(720):
        add_vm(story.ledger, f"vm{number}", NOW)
    story.restart()
    before: set[int] = set()
    for call in range(360):
        story.forecasts.look(NOW + timedelta(seconds=10 * call), 10.0 * call)
        now = set(story.forecasts._looks)
        assert len(now - before) <= 3
        before = now
    assert len(before) == 721


def test_a_vm_that_was_removed_is_forgotten(sure: Story) -> None:
    entry = sure.host.roster.entries.pop(sure.web1)
    sure.forecasts.look(sure.at, sure.elapsed)
    assert sure.forecasts._looks == {}
    sure.host.roster.entries[sure.web1] = replace(entry)

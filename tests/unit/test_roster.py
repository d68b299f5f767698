from __future__ import annotations

from contextlib import closing
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tests.support.books import BOOT, add_vm, vm_of
from tests.support.clock import utc
from xenbw.accounting import HOUR, Pending, Share
from xenbw.clock import Moment
from xenbw.config import DefaultSection, PeriodSection, Settings
from xenbw.judge.roster import Roster, allowance_of
from xenbw.ledger import usagelog, vmlog
from xenbw.ledger.ledger import Alive, Ledger
from xenbw.model import Action, Allowance, Count, Counters, Period, Rates

NOW = utc("2026-03-20 12:00")


def roster(ledger: Ledger, at: datetime = NOW, *, trusted: bool = True, **period: object) -> Roster:
    found = Roster(ledger, Settings(period=PeriodSection(**period)))  # type: ignore[arg-type]  # test shorthand
    found.load(Moment(at, trusted))
    return found


def use(ledger: Ledger, vm_id: int, period_start: datetime, **hours: int) -> None:
    """Usage in the ledger: h20_11=5 is 5 bytes in and 1 out in the hour from 11:00 on the 20th."""
    shares = []
    for word, amount in hours.items():
        day, hour = word[1:].split("_")
        shares.append((vm_id, Share(period_start, NOW.replace(day=int(day), hour=int(hour)), amount, 1, 0)))
    usagelog.commit(ledger, Pending((), tuple(shares)), Alive(NOW, 1.0, BOOT))


def test_settings_that_a_vm_lacks_come_from_the_defaults(ledger: Ledger) -> None:
    add_vm(ledger, "own", NOW, limit_bytes=5, count=Count.OUT, warn_percent=50, action=Action.WARN, reset_day=9)
    add_vm(ledger, "plain", NOW)
    add_vm(ledger, "free", NOW, unlimited=True)
    default = DefaultSection(limit=1000, count="in", warn=(90,))
    found = Roster(ledger, Settings(default=default, period=PeriodSection(reset_day=3)))
    found.load(Moment(NOW, True))
    allowances = {entry.vm.name: entry.allowance for entry in found.entries.values()}
    assert allowances == {
        "own": Allowance(5, Count.OUT, (50,), Action.WARN, 9),
        "plain": Allowance(1000, Count.IN, (90,), Action.BLOCK, 3),
        "free": Allowance(None, Count.IN, (90,), Action.BLOCK, 3),
    }


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, Rates(20_000, 10_000)),
        ({"rate": 50_000}, Rates(50_000, 50_000)),
        ({"rate": 50_000, "rate_in": 60_000}, Rates(60_000, 50_000)),
        ({"rate_in": 60_000}, Rates(60_000, 10_000)),
    ],
)
def test_a_vm_s_own_rate_replaces_both_default_rates(ledger: Ledger, own: dict[str, int], expected: Rates) -> None:
    add_vm(ledger, "web1", NOW, **own)
    default = Allowance(rate=10_000, rate_in=20_000)
    (vm,) = ledger.vms().values()
    assert allowance_of(vm, default).rates == expected


@pytest.mark.parametrize(
    ("own", "limit", "hard"),
    [
        ({}, 1000, 2000),
        ({"limit_bytes": 2000}, 2000, 2000),
        ({"limit_bytes": 2001}, 2001, None),
        ({"unlimited": True}, None, None),
        ({"limit_bytes": 5000, "hard_limit_bytes": 6000}, 5000, 6000),
        ({"unlimited": True, "hard_limit_bytes": 6000}, None, 6000),
    ],
)
def test_the_default_hard_limit_is_not_for_a_vm_that_may_use_more_by_its_own_settings(
    ledger: Ledger, own: dict[str, int], limit: int | None, hard: int | None
) -> None:
    add_vm(ledger, "web1", NOW, **own)
    (vm,) = ledger.vms().values()
    merged = allowance_of(vm, Allowance(1000, hard_limit_bytes=2000))
    assert (merged.limit_bytes, merged.hard_limit_bytes) == (limit, hard)


@pytest.mark.parametrize(("everyone", "enforced"), [(False, {"added"}), (True, {"added", "found"})])
def test_a_vm_that_nobody_added_is_held_to_an_allowance_only_if_configured(
    everyone: bool, enforced: set[str], ledger: Ledger
) -> None:
    add_vm(ledger, "added", NOW)
    ledger.meet("found", NOW)
    found = Roster(ledger, Settings(default=DefaultSection(enforce=everyone)))
    found.load(Moment(NOW, True))
    assert {entry.vm.name for entry in found.entries.values() if entry.enforced} == enforced


def test_a_new_vm_gets_the_period_that_contains_the_moment(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW, reset_day=15)
    period = roster(ledger).entries[vm_id].period
    assert period == Period(utc("2026-03-15"), utc("2026-04-15"))
    assert vm_of(ledger, vm_id).period_start == period.start


def test_a_period_begins_when_the_last_one_ended_and_is_recorded(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    found = roster(ledger)
    end = utc("2026-04-01")
    assert found.roll(Moment(end - timedelta(microseconds=1), True)) == []
    assert found.roll(Moment(end, True)) == [vm_id]
    assert found.roll(Moment(end, True)) == []
    assert found.entries[vm_id].period == Period(end, utc("2026-05-01"))
    assert roster(ledger, end).entries[vm_id].period.start == end


def test_periods_without_a_running_daemon_are_skipped(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    found = roster(ledger)
    found.roll(Moment(utc("2026-08-07"), True))
    assert found.entries[vm_id].period == Period(utc("2026-08-01"), utc("2026-09-01"))


def test_no_period_begins_while_the_clock_is_not_trusted(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    found = roster(ledger)
    assert found.roll(Moment(utc("2027-01-01"), False)) == []
    assert found.period_of(False)(vm_id, utc("2027-01-01")) == found.entries[vm_id].period


def test_a_clock_that_goes_back_re_opens_no_earlier_period(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    roster(ledger)
    back = utc("2026-01-05")
    found = roster(ledger, back)
    assert found.roll(Moment(back, True)) == []
    assert found.period_of(True)(vm_id, back).start == utc("2026-03-01")


def test_bytes_count_in_the_period_they_passed_in_once_it_is_reached(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    period_of = roster(ledger).period_of(True)
    assert period_of(vm_id, utc("2026-04-01") - timedelta(seconds=1)).start == utc("2026-03-01")
    assert period_of(vm_id, utc("2026-04-01")).start == utc("2026-04-01")


def test_an_earlier_reset_day_moves_the_usage_since_then_into_the_present_period(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    roster(ledger)
    use(ledger, vm_id, utc("2026-03-01"), h10_5=100, h15_0=10, h20_11=1)
    ledger.set_vm(vm_id, reset_day=15)
    found = roster(ledger)
    assert found.entries[vm_id].period == Period(utc("2026-03-15"), utc("2026-04-15"))
    assert usagelog.present(ledger)[vm_id] == Counters(11, 2)
    assert [usage for _, usage, _ in usagelog.periods(ledger, vm_id)] == [Counters(11, 2), Counters(100, 1)]


def test_a_later_reset_day_brings_back_the_usage_of_the_period_before(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW, reset_day=15)
    roster(ledger)
    use(ledger, vm_id, utc("2026-02-15"), h10_5=100)
    use(ledger, vm_id, utc("2026-03-15"), h16_0=10)
    ledger.set_vm(vm_id, reset_day=5)
    roster(ledger)
    assert usagelog.present(ledger)[vm_id] == Counters(110, 2)
    assert len(usagelog.periods(ledger, vm_id)) == 1


def test_hours_that_lay_in_two_periods_become_one(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW, reset_day=15)
    roster(ledger)
    use(ledger, vm_id, utc("2026-02-15"), h14_23=100)
    use(ledger, vm_id, utc("2026-03-15"), h14_23=10)
    ledger.set_vm(vm_id, reset_day=5)
    roster(ledger)
    assert usagelog.hours(ledger, vm_id, utc("2026-03-01")) == [(utc("2026-03-14 23:00"), Counters(110, 2))]
    assert usagelog.present(ledger)[vm_id] == Counters(110, 2)


def test_another_zone_moves_the_boundary(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    roster(ledger)
    found = roster(ledger, timezone=ZoneInfo("Asia/Tokyo"))
    assert found.entries[vm_id].period == Period(utc("2026-02-28 15:00"), utc("2026-03-31 15:00"))


def test_an_unchanged_rule_moves_nothing(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    roster(ledger)
    ledger.changed_by_others()
    with closing(Ledger.open(ledger.path)) as other:
        roster(other)
    assert not ledger.changed_by_others()
    assert vm_of(ledger, vm_id).period_start == utc("2026-03-01")


def test_a_changed_rule_waits_for_a_clock_that_is_trusted(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    roster(ledger)
    ledger.set_vm(vm_id, reset_day=15)
    assert roster(ledger, trusted=False).entries[vm_id].period == Period(utc("2026-03-01"), utc("2026-03-15"))
    assert roster(ledger).entries[vm_id].period == Period(utc("2026-03-15"), utc("2026-04-15"))


@pytest.mark.parametrize("wrong", [utc("1970-01-01"), utc("2040-06-15")])
def test_a_first_period_from_a_wrong_clock_is_computed_again_with_a_right_one(wrong: datetime, ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", wrong)
    roster(ledger, wrong, trusted=False)
    found = roster(ledger)
    assert found.entries[vm_id].period == Period(utc("2026-03-01"), utc("2026-04-01"))


def test_usage_dated_by_a_clock_that_was_ahead_counts_in_the_new_period(ledger: Ledger) -> None:
    ahead = utc("2040-06-15")
    vm_id = add_vm(ledger, "web1", ahead)
    start = roster(ledger, ahead, trusted=False).entries[vm_id].period.start
    share = Share(start, ahead + HOUR, 70, 7, 0)
    usagelog.commit(ledger, Pending((), ((vm_id, share),)), Alive(ahead, 1.0, BOOT))
    roster(ledger)
    assert usagelog.present(ledger)[vm_id] == Counters(70, 7)


def test_a_retired_vm_is_not_on_the_roster(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    vmlog.retire(ledger, vm_id, NOW)
    assert roster(ledger).entries == {}

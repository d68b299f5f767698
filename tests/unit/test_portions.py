"""How much of a period's usage each interface counted, in a real ledger."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta

import pytest

from tests.support.books import BOOT, start_vif
from tests.support.clock import utc
from xenbw.accounting import Pending
from xenbw.ledger import portions, prune, usagelog, viflog
from xenbw.ledger.ledger import Alive, Ledger
from xenbw.model import NOTHING, UNREAD, Amounts, Binding, Counters

NOW = utc("2026-03-20 12:00")
MARCH, MID_MARCH, FEBRUARY = utc("2026-03-01"), utc("2026-03-15"), utc("2026-02-01")


def count(ledger: Ledger, binding: Binding, start: datetime, amount: Counters) -> None:
    usagelog.commit(ledger, Pending((), (), ((binding.id, start, amount),)), Alive(NOW, 1.0, BOOT))


def counted(ledger: Ledger, binding: Binding, start: datetime) -> dict[int, Counters]:
    return {found.domid: usage for found, usage in portions.lives(ledger, binding.vm_id, start)}


def test_what_an_interface_counted_adds_up_period_by_period(ledger: Ledger) -> None:
    binding = start_vif(ledger, "web1", NOW, domid=1)
    for start in (MARCH, MARCH, FEBRUARY):
        count(ledger, binding, start, Counters(10, 1))
    assert counted(ledger, binding, MARCH) == {1: Counters(20, 2)}
    assert counted(ledger, binding, FEBRUARY) == {1: Counters(10, 1)}


def test_an_interface_that_lived_in_the_period_is_listed_even_without_bytes(ledger: Ledger) -> None:
    early, late, live = (start_vif(ledger, "web1", FEBRUARY, domid=domid) for domid in (1, 2, 3))
    viflog.end(ledger, early.id, MARCH - timedelta(days=1), "offline")
    viflog.end(ledger, late.id, MARCH + timedelta(days=1), "offline")
    assert counted(ledger, live, MARCH) == {2: Counters(0, 0), 3: Counters(0, 0)}


def test_an_interface_that_ended_before_the_period_is_listed_if_it_counted_in_it(ledger: Ledger) -> None:
    # the clock was set back meanwhile
    binding = start_vif(ledger, "web1", FEBRUARY, domid=1)
    viflog.end(ledger, binding.id, FEBRUARY, "offline")
    count(ledger, binding, MARCH, Counters(5, 5))
    assert counted(ledger, binding, MARCH) == {1: Counters(5, 5)}


@pytest.mark.parametrize("recorded", [True, False], ids=["refiled", "only reckoned"])
def test_a_period_with_another_beginning_takes_portions_that_lie_wholly_in_it(ledger: Ledger, recorded: bool) -> None:
    before = start_vif(ledger, "web1", FEBRUARY, domid=1)
    since = start_vif(ledger, "web1", MID_MARCH + timedelta(hours=1), domid=2)
    for binding in (before, since):
        count(ledger, binding, MARCH, Counters(10, 1))
    if recorded:
        usagelog.refile(ledger, before.vm_id, MID_MARCH, "15@UTC")
    found = portions.lives(ledger, before.vm_id, MID_MARCH, refiled=not recorded)
    assert [usage for _, usage in found] == [Counters(0, 0), Counters(10, 1)]


def test_a_period_that_begins_earlier_takes_the_portions_of_the_later_one(ledger: Ledger) -> None:
    binding = start_vif(ledger, "web1", FEBRUARY, domid=1)
    count(ledger, binding, MID_MARCH, Counters(10, 1))
    count(ledger, binding, utc("2026-02-15"), Counters(100, 100))
    usagelog.refile(ledger, binding.vm_id, MARCH, "1@UTC")
    assert counted(ledger, binding, MARCH) == {1: Counters(10, 1)}
    count(ledger, binding, MARCH, Counters(1, 1))
    assert counted(ledger, binding, MARCH) == {1: Counters(11, 2)}


def test_an_hour_that_lies_in_two_periods_is_not_moved_to_the_new_one(ledger: Ledger) -> None:
    # Usage is refiled by whole hours, and 12:30 is Kathmandu's or Kolkata's midnight
    binding = start_vif(ledger, "web1", NOW + timedelta(minutes=40), domid=1)
    count(ledger, binding, MARCH, Counters(10, 1))
    usagelog.refile(ledger, binding.vm_id, NOW + timedelta(minutes=30), "x")
    assert counted(ledger, binding, NOW + timedelta(minutes=30)) == {1: Counters(0, 0)}


def test_the_portions_of_another_vm_do_not_move(ledger: Ledger) -> None:
    one, other = start_vif(ledger, "web1", NOW, domid=1), start_vif(ledger, "web2", NOW, domid=2)
    for binding in (one, other):
        count(ledger, binding, MARCH, Counters(10, 1))
    usagelog.refile(ledger, one.vm_id, MID_MARCH, "15@UTC")
    assert counted(ledger, other, MARCH) == {2: Counters(10, 1)}


@pytest.mark.parametrize("by", ["this version", "the version before"])
def test_a_portion_is_deleted_with_its_binding(ledger: Ledger, by: str) -> None:
    old, new = (start_vif(ledger, "web1", FEBRUARY, domid=domid) for domid in (1, 2))
    for binding in (old, new):
        count(ledger, binding, FEBRUARY, Counters(10, 1))
    viflog.end(ledger, old.id, FEBRUARY, "offline")
    if by == "this version":
        prune.prune(ledger, NOW, NOW)
    else:
        with sqlite3.connect(ledger.path) as db:
            db.execute("DELETE FROM binding WHERE id = ?", (old.id,))
        db.close()
    assert [row[0] for row in ledger.rows("SELECT binding_id FROM binding_usage")] == [new.id]


def test_all_bytes_of_an_interface_are_known_after_its_domain_was_renamed(ledger: Ledger) -> None:
    before = start_vif(ledger, "web1", NOW, domid=1)
    after = start_vif(ledger, "web2", NOW, domid=1)
    pending = tuple((one.id, Amounts(1, 2, 30, 400, 5000), UNREAD, NOW) for one in (before, after))
    usagelog.commit(ledger, Pending(pending, ()), Alive(NOW, 1.0, BOOT))
    ((binding, passed),) = portions.passed(ledger, after.vm_id, BOOT)
    assert (binding.id, passed) == (after.id, Counters(2 * 431, 2 * 5002))
    assert portions.passed(ledger, before.vm_id, BOOT) == []
    assert portions.passed(ledger, after.vm_id, "another boot") == []
    assert binding.counted != NOTHING

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address

from tests.support.books import BOOT, add_vm, start_vif, vm_of
from tests.support.clock import utc
from xenbw.accounting import HOUR, Pending, Share
from xenbw.ledger import blocklog, eventlog, prune, usagelog, viflog, vmlog
from xenbw.ledger.ledger import Alive, Ledger, to_text
from xenbw.model import NOTHING, Action, Amounts, Block, Cause, Count, Counters, Mark, State

NOW = utc("2026-03-20 12:00")
MARCH = utc("2026-03-01")
ALIVE = Alive(NOW, 1.5, BOOT)
MARK = Mark(Counters(90, 80), Amounts(9, 8, 7, 6, 5), Counters(74, -4))


def test_a_vm_is_read_back_as_it_was_written(ledger: Ledger) -> None:
    vm_id = ledger.meet("sp ace:col", NOW).id
    facts = {
        "added_at": NOW,
        "limit_bytes": 2**63 - 1,
        "unlimited": True,
        "count": Count.MAX,
        "warn_percent": 70,
        "warn_percents": (70, 90),
        "action": Action.WARN,
        "reset_day": 31,
        "rate": 8_000,
        "rate_in": 100 * 10**9,
        "hard_limit_bytes": 2**63 - 1,
        "ips": (ip_address("192.0.2.7"), ip_address("2001:db8::7")),
        "config_file": "/etc/xen/a b.cfg",
        "period_start": MARCH,
        "period_rule": "31@UTC",
        "state": State.EXEMPT,
        "state_reason": "because",
        "state_since": NOW,
        "blocked_reason": "",
        "lifted_until": NOW,
        "threshold": 90,
        "forecast_at": NOW,
    }
    ledger.set_vm(vm_id, **facts)
    vm = vm_of(ledger, vm_id)
    assert {key: getattr(vm, key) for key in facts} == facts


def test_after_a_vm_is_removed_a_new_vm_can_have_its_name(ledger: Ledger) -> None:
    old = add_vm(ledger, "web1", NOW)
    blocklog.block(ledger, old, Cause.ADMIN, "unpaid", NOW, None)
    vmlog.retire(ledger, old, NOW)
    new = ledger.meet("web1", NOW)
    assert (new.id != old, new.added_at) == (True, None)
    assert ledger.active_blocks() == {}


def test_a_vm_that_is_removed_while_it_runs_is_counted_on_as_a_new_vm_that_nobody_added(ledger: Ledger) -> None:
    old = start_vif(ledger, "web1", NOW, domid=1, ips="192.0.2.7")
    usagelog.commit(ledger, Pending(((old.id, Amounts(9, 8, 7), MARK, NOW + HOUR),), ()), ALIVE)
    vmlog.retire(ledger, old.vm_id, NOW + 2 * HOUR)
    (new,) = ledger.live_bindings().values()
    assert new.vm_id == ledger.meet("web1", NOW).id != old.vm_id
    assert (new.mark, new.counted, new.last_at, new.ips) == (MARK, NOTHING, NOW + HOUR, old.ips)


def test_binding_an_interface_twice_only_adds_facts_that_were_unknown(ledger: Ledger) -> None:
    first = start_vif(ledger, "web1", NOW, domid=1, ips="192.0.2.7")
    again = start_vif(ledger, "web1", NOW + HOUR, domid=1, mac="00:16:3e:00:00:01")
    assert again.id == first.id
    assert (again.started_at, again.ips, again.mac) == (NOW, first.ips, "00:16:3e:00:00:01")


def test_an_interface_of_a_renamed_domain_is_counted_on_under_the_new_name(ledger: Ledger) -> None:
    old = start_vif(ledger, "web1", NOW, domid=1)
    usagelog.commit(ledger, Pending(((old.id, Amounts(9, 8, 7), MARK, NOW),), ()), ALIVE)
    new = start_vif(ledger, "web2", NOW + HOUR, domid=1)
    assert (new.mark, new.counted) == (MARK, NOTHING)
    (ended,) = viflog.of_vm(ledger, old.vm_id, MARCH)
    assert (ended.ended_at, ended.end_reason) == (NOW + HOUR, "renamed")


def test_usage_adds_up_per_hour_and_counts_for_the_present_period_only(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW, period_start=MARCH)
    february = utc("2026-02-01")
    for _ in range(2):
        shares = (Share(MARCH, NOW, 2**60, 1, 1), Share(february, MARCH - HOUR, 7, 7, 0))
        usagelog.commit(ledger, Pending((), tuple((vm_id, share) for share in shares)), ALIVE)
    assert usagelog.present(ledger) == {vm_id: Counters(2**61, 2)}
    assert usagelog.periods(ledger, vm_id) == [(MARCH, Counters(2**61, 2), 2), (february, Counters(14, 14), 0)]
    assert usagelog.hours(ledger, vm_id, MARCH) == [(NOW, Counters(2**61, 2))]


def test_the_last_commit_is_remembered_by_both_clocks(ledger: Ledger) -> None:
    assert ledger.alive() is None
    usagelog.commit(ledger, Pending((), ()), ALIVE)
    assert ledger.alive() == ALIVE


def test_a_block_keeps_its_beginning_while_its_cause_changes(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)
    blocklog.block(ledger, vm_id, Cause.QUOTA, "over", NOW, NOW + HOUR)
    blocklog.block(ledger, vm_id, Cause.ADMIN, "unpaid", NOW + HOUR, None)
    assert ledger.active_blocks() == {vm_id: Block(vm_id, Cause.ADMIN, "unpaid", NOW, None)}
    blocklog.lift(ledger, vm_id, NOW + 2 * HOUR, "paid")
    blocklog.lift(ledger, vm_id, NOW + 3 * HOUR, "again")
    (block,) = blocklog.of_vm(ledger, vm_id)
    assert (block.lifted_at, block.lift_reason) == (NOW + 2 * HOUR, "paid")


def test_the_addresses_of_a_vm_are_those_of_its_newest_bindings(ledger: Ledger) -> None:
    first = start_vif(ledger, "web1", NOW, domid=1, ips="192.0.2.1")
    viflog.end(ledger, first.id, NOW + HOUR, "vanished")
    second = [start_vif(ledger, "web1", NOW + HOUR, domid=2, devid=n, ips=f"192.0.2.{7 + n}") for n in (0, 1)]
    for binding in second:
        viflog.end(ledger, binding.id, NOW + 2 * HOUR, "vanished")
    assert {binding.id for binding in viflog.latest(ledger)} == {binding.id for binding in second}


def test_pruning_keeps_up_with_the_readings_of_many_thousand_vifs(ledger: Ledger) -> None:
    vif = start_vif(ledger, "web1", NOW, domid=1)
    with ledger.transaction() as db:
        times = ((str(to_text(NOW + timedelta(seconds=second))), vif.id) for second in range(12_000))
        db.executemany("INSERT INTO reading VALUES (?2, ?1, 1, 1, 1, 1, 1)", times)
    prune.prune(ledger, NOW + timedelta(days=1), NOW)
    assert ledger.rows("SELECT count(*) FROM reading")[0][0] == 0


def test_pruning_deletes_history_but_keeps_usage_blocks_in_force_and_each_vms_last_binding(ledger: Ledger) -> None:
    old = NOW - timedelta(days=900)
    lives = [start_vif(ledger, "web1", old, domid=domid) for domid in (1, 2)]
    for binding in lives:
        viflog.end(ledger, binding.id, old, "vanished")
    vm_id = lives[0].vm_id
    usagelog.commit(ledger, Pending((), ((vm_id, Share(MARCH, old, 5, 5, 0)),)), ALIVE)
    blocklog.block(ledger, vm_id, Cause.ADMIN, "unpaid", old, None)
    ledger.record(old, "kind", "old")
    ledger.record(NOW, "kind", "new")
    usagelog.add_readings(ledger, [(lives[1].id, Counters(1, 1), Counters(2, 2))], old)
    prune.prune(ledger, NOW, NOW - timedelta(days=800))
    assert [binding.id for binding in viflog.of_vm(ledger, vm_id, utc("2000-01-01"))] == [lives[1].id]
    assert usagelog.periods(ledger, vm_id) == [(MARCH, Counters(5, 5), 0)]
    assert list(ledger.active_blocks()) == [vm_id]
    assert [text for _, _, text in eventlog.newest(ledger, 10)] == ["new"]

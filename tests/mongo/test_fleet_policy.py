"""Several dom0s and a panel share the book's allowances: each may edit them."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from bson.int64 import Int64

from tests.support.clock import utc
from tests.support.fleet import GB, NOW, Dom0
from tests.support.mongod import Mongod
from tests.support.pace import until
from xenbw.ledger import eventlog, vmlog
from xenbw.model import Action, State

pytestmark = pytest.mark.mongo


def test_a_vm_added_on_one_host_is_known_on_the_next_host_it_runs_on(a: Dom0, b: Dom0) -> None:
    a.add("web1", limit_bytes=5 * GB, reset_day=15)
    a.sync.push()
    b.sees("web1")
    b.sync.push()
    assert (b.vm("web1").limit_bytes, b.vm("web1").reset_day) == (5 * GB, 15)
    assert b.vm("web1").added_at is not None


def test_a_panel_sets_an_allowance_with_a_plain_update(a: Dom0, vms: Any) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.sync.push()
    vms.update_one({"_id": "web1"}, {"$set": {"limit_bytes": float(7 * GB), "count": "out"}})
    a.sync.push()
    assert (a.vm("web1").limit_bytes, a.vm("web1").count) == (7 * GB, "out")


def test_a_panel_can_enter_a_vm_before_it_ever_ran(a: Dom0, vms: Any) -> None:
    vms.insert_one({"_id": "new", "name": "new", "limit_bytes": 9 * GB})
    a.sync.push()
    a.sees("new")
    a.sync.push()
    assert a.vm("new").limit_bytes == 9 * GB


def test_an_edit_made_while_the_book_was_away_is_pushed_later(a: Dom0, vms: Any, server: Mongod) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.sync.push()
    server.stop()
    a.ledger.set_vm(a.vm("web1").id, limit_bytes=6 * GB)
    server.start()
    a.sync.push()
    assert vms.find_one({"_id": "web1"})["limit_bytes"] == 6 * GB


def test_an_edit_that_a_later_edit_in_the_book_replaces_is_kept_as_an_event(a: Dom0, vms: Any) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.sync.push()
    a.ledger.set_vm(a.vm("web1").id, limit_bytes=6 * GB)
    vms.update_one({"_id": "web1"}, {"$set": {"limit_bytes": 8 * GB}})
    a.sync.push()
    assert a.vm("web1").limit_bytes == 8 * GB
    assert any(kind == "conflict" and "6000000000 here" in text for _, kind, text in eventlog.newest(a.ledger, 3))


def test_impossible_values_in_the_book_are_reported_and_the_last_good_value_holds(a: Dom0, vms: Any) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.sync.push()
    vms.update_one({"_id": "web1"}, {"$set": {"limit_bytes": -1, "reset_day": "first", "colour": "red"}})
    a.sync.push()
    assert (a.vm("web1").limit_bytes, a.vm("web1").reset_day) == (5 * GB, None)
    assert [field for field in ("limit_bytes", "reset_day", "colour") if field in " ".join(a.sync.faults)] == [
        "limit_bytes",
        "reset_day",
        "colour",
    ]
    vms.update_one({"_id": "web1"}, {"$set": {"limit_bytes": 6 * GB}, "$unset": {"reset_day": "", "colour": ""}})
    a.sync.push()
    assert (a.vm("web1").limit_bytes, a.sync.faults) == (6 * GB, [])


def test_the_rates_of_a_throttle_and_a_hard_limit_are_edited_on_both_sides(a: Dom0, b: Dom0, vms: Any) -> None:
    a.add("web1", limit_bytes=5 * GB, action="throttle", rate=10**7, rate_in=2 * 10**7, hard_limit_bytes=6 * GB)
    a.sync.push()
    document = vms.find_one({"_id": "web1"})
    kept = {"action": "throttle", "rate_bits": 10**7, "rate_in_bits": 2 * 10**7, "hard_limit_bytes": 6 * GB}
    assert {field: document[field] for field in kept} == kept
    assert {type(document[field]) for field in ("rate_bits", "rate_in_bits", "hard_limit_bytes")} == {Int64}
    b.sees("web1")
    b.sync.push()
    vms.update_one({"_id": "web1"}, {"$set": {"rate_bits": 5e6, "rate_in_bits": None}})
    a.ledger.set_vm(a.vm("web1").id, hard_limit_bytes=7 * GB)
    for host in (a, b):
        host.sync.push()
        vm = host.vm("web1")
        assert (vm.action, vm.rate, vm.rate_in, vm.hard_limit_bytes) == (Action.THROTTLE, 5 * 10**6, None, 7 * GB)
        assert host.sync.faults == []
    vms.update_one({"_id": "web1"}, {"$set": {"retired_at": NOW}})
    b.sync.push()
    vm = b.vm("web1")
    assert (vm.added_at, vm.rate, vm.rate_in, vm.hard_limit_bytes) == (None, None, None, None)


def test_several_thresholds_are_edited_on_all_sides_and_an_older_host_changes_the_number_alone(
    a: Dom0, b: Dom0, vms: Any
) -> None:
    def pushed() -> list[tuple[int, ...] | None]:
        for host in (a, b):
            host.sync.push()
            assert host.sync.faults == []
        return [host.vm("web1").thresholds for host in (a, b)]

    a.add("web1", limit_bytes=5 * GB, warn_percent=75, warn_percents=(75, 90, 100))
    b.sees("web1")
    assert pushed() == [(75, 90, 100)] * 2
    document = vms.find_one({"_id": "web1"})
    assert (document["warn_percent"], document["warn_percents"]) == (75, [75, 90, 100])
    # A panel writes doubles, in any order.
    vms.update_one({"_id": "web1"}, {"$set": {"warn_percent": 60.0, "warn_percents": [95.0, Int64(60)]}})
    assert pushed() == [(60, 95)] * 2
    # An xenbw that knows of one threshold reads and writes that number.
    vms.update_one({"_id": "web1"}, {"$set": {"warn_percent": 80}})
    assert pushed() == [(80,)] * 2
    b.ledger.set_vm(b.vm("web1").id, warn_percent=70, warn_percents=(70, 85))
    b.sync.push()
    assert pushed() == [(70, 85)] * 2
    b.ledger.set_vm(b.vm("web1").id, warn_percent=90, warn_percents=None)
    b.sync.push()
    assert pushed() == [(90,)] * 2
    assert vms.find_one({"_id": "web1"})["warn_percents"] is None


def test_a_list_of_thresholds_that_does_not_begin_with_the_number_is_reported_and_ignored(a: Dom0, vms: Any) -> None:
    a.add("web1", limit_bytes=5 * GB, warn_percent=75)
    a.sync.push()
    vms.update_one({"_id": "web1"}, {"$set": {"warn_percents": [60, 90]}})
    a.sync.push()
    assert a.vm("web1").thresholds == (75,)
    (fault,) = a.sync.faults
    assert "warn_percent must be the lowest of warn_percents" in fault
    for nonsense in ([], [0], [75, "90"], [75, True], 75):
        vms.update_one({"_id": "web1"}, {"$set": {"warn_percents": nonsense}})
        a.sync.push()
        assert a.vm("web1").thresholds == (75,)
        (fault,) = a.sync.faults
        assert "not a list of whole numbers from 1 to 100" in fault


def test_a_throttle_without_a_rate_and_a_hard_limit_below_the_limit_are_reported_and_ignored(a: Dom0, vms: Any) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.sync.push()
    vms.update_one({"_id": "web1"}, {"$set": {"action": "throttle", "hard_limit_bytes": 4 * GB, "reset_day": 9}})
    a.sync.push()
    vm = a.vm("web1")
    assert (vm.action, vm.hard_limit_bytes, vm.reset_day) == (None, None, 9)
    assert a.sync.faults == [
        "the book: web1: action = throttle: action throttle needs rate_bits, or a rate in this host's [default];"
        " the last good value holds",
        "the book: web1: hard_limit_bytes = 4000000000: hard_limit_bytes must not be below the limit;"
        " the last good value holds",
    ]
    vms.update_one({"_id": "web1"}, {"$set": {"rate_bits": 10**7, "hard_limit_bytes": 5 * GB}})
    a.sync.push()
    vm = a.vm("web1")
    assert (vm.action, vm.rate, vm.hard_limit_bytes, a.sync.faults) == (Action.THROTTLE, 10**7, 5 * GB, [])


def test_a_tenants_addresses_can_be_edited_in_the_book_and_on_a_host(a: Dom0, b: Dom0, vms: Any) -> None:
    a.add("web1", mail=("one@example.com", "two@example.com"))
    a.sync.push()
    assert vms.find_one({"_id": "web1"})["mail"] == ["one@example.com", "two@example.com"]
    b.sees("web1")
    b.sync.push()
    assert b.vm("web1").mail == ("one@example.com", "two@example.com")
    vms.update_one({"_id": "web1"}, {"$set": {"mail": ["three@example.com"]}})
    for host in (a, b, a):
        host.sync.push()
        assert (host.vm("web1").mail, host.sync.faults) == (("three@example.com",), [])
    for nonsense in (["no address"], ["A <a@example.com>"], "a@example.com", {}, ["a@example.com"] * 11):
        vms.update_one({"_id": "web1"}, {"$set": {"mail": nonsense}})
        a.sync.push()
        assert a.vm("web1").mail == ("three@example.com",)
        assert ["mail" in fault for fault in a.sync.faults] == [True]
    # No list and an empty one are the same: the VM has no tenant.
    for nobody in ([], None):
        vms.update_one({"_id": "web1"}, {"$set": {"mail": ["three@example.com"]}})
        a.sync.push()
        vms.update_one({"_id": "web1"}, {"$set": {"mail": nobody}})
        for host in (a, b, a):
            host.sync.push()
            assert (host.vm("web1").mail, host.sync.faults) == (None, [])


def test_a_vms_allow_list_can_be_edited_in_the_book_and_on_a_host(a: Dom0, b: Dom0, vms: Any) -> None:
    a.add("web1", allow=(ip_network("192.0.2.53/32"),))
    a.sync.push()
    assert vms.find_one({"_id": "web1"})["allow"] == ["192.0.2.53/32"]
    b.sees("web1")
    b.sync.push()
    assert b.vm("web1").allow == (ip_network("192.0.2.53/32"),)
    # The list as a panel may write it; no host rewrites it.
    vms.update_one({"_id": "web1"}, {"$set": {"allow": ["198.51.100.7", "2001:DB8::/64"]}})
    for host in (a, b, a):
        host.sync.push()
        assert host.vm("web1").allow == (ip_network("198.51.100.7/32"), ip_network("2001:db8::/64"))
    assert vms.find_one({"_id": "web1"})["allow"] == ["198.51.100.7", "2001:DB8::/64"]
    # An empty list differs from no list: without a list the host's configuration applies.
    for value, expected in (((), []), (None, None), ((ip_network("192.0.2.0/24"),), ["192.0.2.0/24"])):
        a.ledger.set_vm(a.vm("web1").id, allow=value)
        a.sync.push()
        assert vms.find_one({"_id": "web1"})["allow"] == expected
        b.sync.push()
        assert (a.vm("web1").allow, b.vm("web1").allow) == (value, value)
    for nonsense in (["192.0.2.0/24", "the panel"], ["fe80::1%eth 0; drop"], [7], "192.0.2.1", {}):
        vms.update_one({"_id": "web1"}, {"$set": {"allow": nonsense}})
        a.sync.push()
        assert a.vm("web1").allow == (ip_network("192.0.2.0/24"),)
        assert ["allow" in fault for fault in a.sync.faults] == [True]


def test_an_emptied_book_releases_no_vm_and_is_filled_again(a: Dom0, vms: Any) -> None:
    a.add("web1", limit_bytes=5 * GB, blocked_reason="unpaid")
    a.sync.push()
    vms.drop()
    a.sync.push()
    assert (a.vm("web1").limit_bytes, a.vm("web1").blocked_reason) == (5 * GB, "unpaid")
    assert vms.find_one({"_id": "web1"})["limit_bytes"] == 5 * GB


def test_an_empty_reason_blocks_until_it_is_taken_away(a: Dom0, vms: Any) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.sync.push()
    vms.update_one({"_id": "web1"}, {"$set": {"blocked_reason": ""}})
    for _ in range(3):
        a.sync.push()
        assert a.judged("web1") is State.BLOCKED
        assert vms.find_one({"_id": "web1"})["blocked_reason"] == ""
    vms.update_one({"_id": "web1"}, {"$set": {"blocked_reason": None}})
    a.sync.push()
    assert a.judged("web1") is State.OK


def test_a_block_by_hand_and_its_lifting_reach_the_other_host(a: Dom0, b: Dom0) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.sync.push()
    b.sees("web1")
    b.sync.push()
    a.ledger.set_vm(a.vm("web1").id, blocked_reason="unpaid")
    a.sync.push()
    b.sync.push()
    assert b.judged("web1") is State.BLOCKED
    b.ledger.set_vm(b.vm("web1").id, blocked_reason=None)
    b.sync.push()
    a.sync.push()
    assert a.judged("web1") is State.OK


def test_a_vm_removed_on_one_host_is_only_metered_on_the_others_until_it_is_added_again(a: Dom0, b: Dom0) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.sync.push()
    b.sees("web1")
    b.sync.push()
    a.clock.go(minutes=1)
    b.clock.go(minutes=1)
    vmlog.retire(a.ledger, a.vm("web1").id, a.clock.wall)
    a.sync.push()
    b.sync.push()
    assert (b.vm("web1").added_at, b.vm("web1").limit_bytes) == (None, None)
    b.clock.go(minutes=1)
    b.add("web1", limit_bytes=7 * GB)
    b.sync.push()
    a.sees("web1")
    a.sync.push()
    assert a.vm("web1").limit_bytes == 7 * GB


def test_the_thread_survives_an_unexpected_error_and_reports_it(a: Dom0, vms: Any) -> None:
    a.add("web1", limit_bytes=100)
    a.ledger.set_vm(a.vm("web1").id, book_base="{torn")
    a.sync.start()
    try:
        assert until(lambda: a.sync.problem is not None)
        assert "JSONDecodeError" in str(a.sync.problem)
        assert a.sync.is_alive()
    finally:
        a.sync.stop()


@pytest.mark.parametrize("nothing", [None, "yesterday", [NOW], 5])
def test_a_removal_without_a_date_is_ignored_and_the_other_fields_count(nothing: object, a: Dom0, vms: Any) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.sync.push()
    vms.update_one({"_id": "web1"}, {"$set": {"retired_at": nothing, "limit_bytes": 6 * GB}})
    a.sync.push()
    assert a.vm("web1").limit_bytes == 6 * GB
    assert [fault for fault in a.sync.faults if "retired_at" in fault] == a.sync.faults
    assert bool(a.sync.faults) == (nothing is not None)
    a.ledger.changed_by_others()
    a.sync.push()
    assert not a.ledger.changed_by_others()


def test_a_removal_dated_in_the_future_removes_the_vm_once_and_is_reported(a: Dom0, b: Dom0, vms: Any) -> None:
    for host in (a, b):
        host.add("web1", limit_bytes=5 * GB)
        host.sync.push()
    vms.update_one({"_id": "web1"}, {"$set": {"retired_at": utc("2099-01-01")}})
    for host in (a, b):
        host.sync.push()
        assert host.vm("web1").added_at is None
        assert "retired_at" in host.sync.faults[0]
    a.add("web1", limit_bytes=6 * GB)
    for _ in range(2):
        for host in (a, b):
            host.sync.push()
            assert (host.vm("web1").limit_bytes, host.vm("web1").added_at is not None) == (6 * GB, True)
            assert host.sync.faults == []


@pytest.mark.parametrize(
    "swollen",
    [
        {"allow": [f"10.{n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(600_000)]},
        {f"field{n}": n for n in range(100_000)},
        {"blocked_reason": "x" * 15_000_000},
    ],
    ids=["allow", "unknown fields", "blocked_reason"],
)
def test_a_huge_document_is_reported_in_one_line_and_never_read(swollen: dict[str, Any], a: Dom0, vms: Any) -> None:
    a.add("web1", limit_bytes=5 * GB)
    a.add("web2", limit_bytes=5 * GB)
    a.sync.push()
    vms.replace_one({"_id": "web1"}, {"name": "web1", **swollen, "limit_bytes": 6 * GB})
    vms.update_one({"_id": "web2"}, {"$set": {"limit_bytes": 6 * GB}})
    a.sync.push()
    (fault,) = a.sync.faults
    assert "web1: too large" in fault
    assert (a.vm("web1").limit_bytes, a.vm("web1").blocked_reason, a.vm("web1").allow) == (5 * GB, None, None)
    assert a.vm("web2").limit_bytes == 6 * GB

"""Which guest's nodes in xenstore the daemon writes when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.clock import utc
from xenbw.daemon.tenants import Tenants
from xenbw.model import VM, Allowance, Counters, Entry, Period, State
from xenbw.tell.complaints import Complaints
from xenbw.xen.notices import Notice

NOW = utc("2026-11-20 12:00")
PERIOD = Period(utc("2026-11-01 00:00"), utc("2026-12-01 00:00"))


class Daemon:
    """The parts that Tenants looks at, and the offers that it made in each second."""

    def __init__(self, guests: int, *, enforced: bool = True) -> None:
        self.bound = [SimpleNamespace(domid=100 + number, vm_id=number) for number in range(guests)]
        self.entries = {number: _entry(number, enforced) for number in range(guests)}
        self.usage = {number: Counters(number, 0) for number in range(guests)}
        self.tick = SimpleNamespace(elapsed=5000.0)
        self.moment = SimpleNamespace(at=NOW)
        self.problem: str | None = None
        self.complaints = Complaints()
        self.offers: list[dict[int, Notice | None]] = []
        this: Any = self
        self.tenants = Tenants(this, this, this, this, self.complaints, this)

    def offer(self, notices: Mapping[int, Notice | None]) -> None:
        self.offers.append(dict(notices))

    def second(self, *, on: bool = True) -> dict[int, Notice | None]:
        self.tick.elapsed += 1
        self.tenants.tell(on=on)
        return self.offers[-1]

    def seconds(self, number: int) -> list[dict[int, Notice | None]]:
        return [self.second() for _ in range(number)]

    def become(self, number: int, state: State) -> None:
        entry = self.entries[number]
        self.entries[number] = replace(entry, vm=replace(entry.vm, state=state))


def _entry(number: int, enforced: bool) -> Entry:
    return Entry(VM(number, f"vm{number}", NOW), Allowance(limit_bytes=1000), enforced, PERIOD)


def test_a_guest_is_told_at_once_and_then_each_minute() -> None:
    daemon = Daemon(1)
    first = daemon.second()[100]
    assert first is not None
    assert (first.name, first.values["used"], first.values["limit"]) == ("vm0", "0", "1000")
    assert daemon.seconds(59) == [{}] * 59
    assert daemon.second().keys() == {100}


def test_a_change_of_state_is_told_in_the_next_second() -> None:
    daemon = Daemon(3)
    daemon.second()
    daemon.become(1, State.OVER)
    told = daemon.second()
    assert told.keys() == {101}
    assert told[101] is not None
    assert told[101].values["state"] == "over"
    assert daemon.second() == {}


def test_a_thousand_guests_are_spread_over_the_minute() -> None:
    daemon = Daemon(1000)
    daemon.second()
    first = daemon.seconds(60)
    assert {domid for offers in daemon.offers for domid in offers} == set(range(100, 1100))
    again = daemon.seconds(60)
    assert sorted(domid for offers in again for domid in offers) == list(range(100, 1100))
    assert max(len(offers) for offers in first + again) <= 40
    daemon.become(999, State.OVER)
    assert 1099 in daemon.second()


def test_a_slow_loop_tells_all_guests_as_well() -> None:
    daemon = Daemon(1000)
    for _ in range(3):
        daemon.tick.elapsed += 59
        daemon.second()
    assert {domid for offers in daemon.offers for domid in offers} == set(range(100, 1100))


def test_a_guest_whose_vm_nobody_added_has_its_nodes_removed_once() -> None:
    daemon = Daemon(1, enforced=False)
    assert daemon.second() == {100: None}
    assert daemon.seconds(100) == [{}] * 100


@pytest.mark.parametrize("gone", ["vif", "vm"])
def test_the_nodes_of_a_removed_vm_and_of_a_domain_without_vifs_are_removed(gone: str) -> None:
    daemon = Daemon(2)
    daemon.second()
    if gone == "vif":
        del daemon.bound[1]
    else:
        del daemon.entries[1]
    assert daemon.second() == {101: None}
    assert daemon.second() == {}


def test_switched_off_all_nodes_are_removed_and_switched_on_they_are_back() -> None:
    daemon = Daemon(2)
    daemon.second()
    assert daemon.second(on=False) == {100: None, 101: None}
    assert daemon.second(on=False) == {}
    assert [notice is not None for notice in daemon.second().values()] == [True, True]


def test_a_problem_of_the_thread_is_a_problem_of_the_daemon_until_it_is_over() -> None:
    daemon = Daemon(1)
    daemon.problem = "no answer"
    daemon.second()
    assert daemon.complaints.all() == ["xenstore nodes of guests: no answer"]
    daemon.problem = None
    daemon.second()
    assert daemon.complaints.all() == []

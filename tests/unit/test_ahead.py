"""A VM whose tripwire ran out is judged by its own counters and null-routed ahead of the round that reads all vifs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.books import add_vm, open_ledger, start_vif
from tests.support.clock import utc
from tests.support.guarded import IP, IP6, NOW, Host, MethodStandIn
from xenbw.accounting import Tally, Tracked
from xenbw.clock import Moment
from xenbw.config import DaemonSection, Settings
from xenbw.daemon.rounds import Rounds
from xenbw.enforce.reconcile import over_path
from xenbw.errors import MeterError
from xenbw.ledger import viflog
from xenbw.ledger.ledger import Ledger
from xenbw.meters.counters import KernelMeter, Meter
from xenbw.meters.metering import Metering
from xenbw.meters.nft import NftMeter
from xenbw.model import NOTHING, VM, ZERO, Allowance, Counters, Entry, Mark, Period, Reading
from xenbw.nft.objects import Quota
from xenbw.vifs import interfaces

MARCH = Period(utc("2026-03-01"), utc("2026-04-01"))


# null routes


@pytest.fixture
def host(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host that was reconciled while web1 and web2 were in good standing, and whose ledger says since that web1 is
    over its allowance."""
    monkeypatch.setattr(interfaces, "bridge_filtered", lambda _version: True)
    settings = Settings(daemon=DaemonSection(run_dir=tmp_path / "run"))
    host = Host(ledger, settings, MethodStandIn("null routes"))
    start_vif(ledger, "web2", NOW, domid=2, ips="192.0.2.8")
    host.judge(0)
    host.enforce()
    ledger.changed_by_others()
    host.judge(1001)
    return host


def test_a_vm_is_null_routed_ahead_of_the_reconciling_that_announces_it(host: Host) -> None:
    host.reconciler.hasten(host.roster)
    assert host.method.asked[1:] == [{IP: "web1", IP6: "web1"}]
    host.enforce()
    assert host.reconciler.problems == []
    assert set(host.over_file().blocked) == {"web1"}


def test_the_hook_knows_the_vm_as_blocked_if_the_daemon_is_killed_before_the_reconciling(host: Host) -> None:
    before = host.over_file()
    assert (set(before.blocked), str(IP) in before.held) == (set(), True)
    host.reconciler.hasten(host.roster)
    assert host.over_file().addresses() == {str(IP): "web1", str(IP6): "web1"}


def test_a_hooks_file_that_cannot_be_written_does_not_hold_up_the_null_route(host: Host) -> None:
    over_path(host.reconciler.settings).unlink()
    host.reconciler.hasten(host.roster)
    assert host.method.asked[1:] == [{IP: "web1", IP6: "web1"}]
    assert not over_path(host.reconciler.settings).exists()


def test_an_address_that_a_vm_in_good_standing_holds_is_not_null_routed(host: Host, ledger: Ledger) -> None:
    host.judge(0)
    start_vif(ledger, "web2", NOW, domid=3, ips=str(IP))
    host.enforce()
    host.judge(1001)
    host.reconciler.hasten(host.roster)
    assert host.method.asked[-1] == {IP6: "web1"}


def test_if_another_process_wrote_to_the_ledger_the_reconciling_is_waited_for(host: Host, tmp_path: Path) -> None:
    with closing(open_ledger(tmp_path)) as other:
        start_vif(other, "web2", NOW, domid=3, ips=str(IP))
    host.reconciler.hasten(host.roster)
    assert len(host.method.asked) == 1
    # The round that looks for such news finds it.
    assert host.ledger.changed_by_others()


def test_null_routes_that_cannot_be_made_are_left_to_the_reconciling(host: Host) -> None:
    host.method.fails = "iptables: it is locked"
    host.reconciler.hasten(host.roster)
    host.enforce()
    assert host.reconciler.problems == ["iptables: it is locked"]


# counters


class Counting(Meter):
    """A meter of our own counters, which are set by the test: binding id -> reading."""

    name, own = "stand-in", True

    def __init__(self) -> None:
        self.readings: dict[int, Reading] = {}

    def glance(self, wanted: Any) -> dict[int, Reading]:
        return {one.binding_id: self.readings[one.binding_id] for one in wanted if one.binding_id in self.readings}


def test_only_the_vifs_of_these_vms_are_read_and_credited(ledger: Ledger) -> None:
    tally, meter = Tally(), Counting()
    metering = Metering(ledger, tally, "", cast("Any", None))
    metering.use(meter, "")
    ids = [add_vm(ledger, name, NOW) for name in ("web1", "web2")]
    for vm_id, name in zip(ids, ("web1", "web2"), strict=True):
        tally.open_period(vm_id, MARCH.start)
        binding = start_vif(ledger, name, NOW, domid=vm_id)
        tally.follow(binding, NOW)
        meter.readings[binding.id] = Reading(Counters(10, 20), NOTHING._replace(in_bytes=10, out_bytes=20))

    def glance(vm_ids: list[int]) -> set[int] | None:
        return metering.glance(vm_ids, NOW + timedelta(seconds=1), lambda _vm_id, _at: MARCH)

    assert glance(ids[:1]) == {ids[0]}
    assert tally.usage == {ids[0]: Counters(10, 20), ids[1]: Counters(0, 0)}
    assert glance(ids[:1]) == set()
    meter.readings.clear()
    assert glance(ids[:1]) is None
    assert tally.usage[ids[0]] == Counters(10, 20)


class Flushed:
    """A table of counters that another program flushes while they are read by name."""

    def __init__(self, *, flushed: bool) -> None:
        self.flushed, self.generations = flushed, 0

    def generation(self) -> int:
        self.generations += self.flushed
        return self.generations

    def counters(self, names: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(names[:1] if self.flushed else names, 50_000)


@pytest.mark.parametrize("flushed", [False, True])
def test_counters_that_are_flushed_while_they_are_read_by_name_are_left_to_the_round(
    flushed: bool, ledger: Ledger, tmp_path: Path
) -> None:
    add_vm(ledger, "web1", NOW)
    binding = start_vif(ledger, "web1", NOW, domid=1)
    (tmp_path / "dev").write_text("")
    chains, table = SimpleNamespace(fresh=set()), Flushed(flushed=flushed)
    quotas = SimpleNamespace(forget=lambda: None)
    meter = NftMeter(cast("Any", table), cast("Any", chains), cast("Any", quotas), KernelMeter(tmp_path / "dev"))
    tracked = Tracked(binding, NOW)
    tracked.mark = Mark(ZERO, NOTHING)
    assert bool(meter.glance([tracked])) is not flushed


# the round


class Ahead:
    """The rounds of a host on which web1's tripwire ran out, with stand-ins for all parts. done: what was done."""

    def __init__(self, at: datetime = NOW, consumed: int = 2001) -> None:
        self.done: list[str] = []
        self.counts, self.moves = True, True
        rounds = self.rounds = cast("Any", Rounds.__new__(Rounds))
        vm = VM(id=1, name="web1", found_at=NOW)
        rounds._tally = SimpleNamespace(shut={})
        rounds._now = SimpleNamespace(moment=Moment(at, True))
        rounds._quotas = SimpleNamespace(now=lambda names: dict.fromkeys(names, Quota(2001, consumed)))
        rounds._roster = SimpleNamespace(entries={1: Entry(vm, Allowance(limit_bytes=2000), True, MARCH)})
        rounds._reconciler = SimpleNamespace(
            blocked=frozenset(), shut=dict, hasten=lambda _roster: self.done.append("null-routed")
        )
        rounds._accounts = SimpleNamespace(glance=self.glance, commit=lambda: self.done.append("committed"))
        rounds._pass_judgement = self.judge

    def glance(self, vm_ids: Mapping[int, set[str]]) -> bool:
        self.done.append(f"counted {list(vm_ids)}")
        return self.counts

    def judge(self, _vm_ids: object, spent: object) -> bool:
        self.done.append(f"judged {spent}")
        return self.moves

    def trip(self) -> bool:
        return bool(self.rounds.trip(["trip-total-1"]))


def test_it_is_counted_and_judged_before_it_is_null_routed() -> None:
    ahead = Ahead()
    assert ahead.trip()
    assert ahead.done == ["counted [1]", "judged {1: {'trip'}}", "null-routed", "committed"]


def test_nothing_is_done_ahead_for_a_tripwire_that_has_bytes_left_by_now() -> None:
    ahead = Ahead(consumed=2000)
    assert (ahead.trip(), ahead.done) == (False, [])


def test_nothing_is_done_ahead_when_its_period_is_over() -> None:
    ahead = Ahead(at=MARCH.end)
    assert (ahead.trip(), ahead.done) == (False, [])


def test_without_its_counters_it_is_not_judged_ahead() -> None:
    ahead = Ahead()
    ahead.counts = False
    assert (ahead.trip(), ahead.done) == (False, ["counted [1]"])


def test_without_a_new_verdict_nothing_is_held_ahead() -> None:
    ahead = Ahead()
    ahead.moves = False
    assert (ahead.trip(), ahead.done[2:]) == (False, [])


def test_if_nft_cannot_be_read_nothing_is_done_ahead() -> None:
    def fails(_names: object) -> None:
        raise MeterError("nf_tables: no")

    ahead = Ahead()
    ahead.rounds._quotas.now = fails
    assert (ahead.trip(), ahead.done) == (False, [])


# addresses


@pytest.mark.parametrize("ended", [False, True])
def test_a_vms_addresses_are_those_of_its_newest_life(ledger: Ledger, ended: bool) -> None:
    start_vif(ledger, "web2", NOW, domid=7, ips="192.0.2.9")
    for domid, ips in ((1, ("192.0.2.1",)), (2, ("192.0.2.2", "2001:db8::2"))):
        for devid, ip in enumerate(ips):
            binding = start_vif(ledger, "web1", NOW, domid=domid, devid=devid, ips=ip)
            if ended or domid == 1:
                viflog.end(ledger, binding.id, NOW, "vanished")
    found = viflog.addresses_of(ledger, binding.vm_id)
    assert sorted(map(str, found)) == ["192.0.2.2", "2001:db8::2"]
    of_all = {address for one in viflog.latest(ledger) if one.vm_id == binding.vm_id for address in one.ips}
    assert found == of_all


def test_a_vm_without_vifs_has_no_addresses(ledger: Ledger) -> None:
    assert viflog.addresses_of(ledger, add_vm(ledger, "web1", NOW)) == set()

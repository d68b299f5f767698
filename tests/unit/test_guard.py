"""Judging and enforcing with a ledger and without the kernel: who is blocked, who is released, and what is told.

The file is long: all its tests need the same ledger and bridges, which its fixtures make.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.support.books import BOOT, add_vm, start_vif, vm_of
from tests.support.clock import utc
from tests.support.guarded import END, IP, IP6, NOW, Host, MethodStandIn
from xenbw.blocks.block import Outcome, Wanted
from xenbw.blocks.link import Link
from xenbw.config import DaemonSection, EnforceSection, MailSection, Settings
from xenbw.enforce.reconcile import Reconciler
from xenbw.ledger import blocklog, outbox, viflog
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.model import Action, Cause, Counters, State
from xenbw.vifs import interfaces


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(daemon=DaemonSection(run_dir=tmp_path / "run"), mail=MailSection(to=("noc@example.com",)))


@pytest.fixture
def bridges(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Sets whether iptables sees bridged frames; otherwise that depends on the machine."""

    def say(filtered: bool) -> None:
        monkeypatch.setattr(interfaces, "bridge_filtered", lambda _version: filtered)

    return say


@pytest.fixture
def host(ledger: Ledger, settings: Settings, bridges: Callable[[bool], None]) -> Host:
    bridges(True)
    return Host(ledger, settings, MethodStandIn())


@contextmanager
def unwritable(ledger: Ledger) -> Iterator[None]:
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


# judging


def test_a_vm_within_its_allowance_changes_nothing(host: Host) -> None:
    assert not host.judge(799)
    assert host.events() == []
    assert vm_of(host.ledger, host.web1).state is State.OK


def test_a_warning_is_recorded_and_mailed_once(host: Host) -> None:
    for used in (800, 850, 1000):
        assert not host.judge(used)
    assert host.events() == ["warned"]
    assert host.mails() == ["traffic warning, 80 % used"]
    assert vm_of(host.ledger, host.web1).state_since == NOW


def test_a_vm_that_goes_over_is_blocked_announced_once_and_until_its_period_ends(host: Host) -> None:
    assert host.judge(1001)
    host.at += timedelta(minutes=1)
    assert not host.judge(1001)
    host.restart()
    assert not host.judge(1002)
    block = host.ledger.active_blocks()[host.web1]
    assert (block.cause, block.since, block.until) == (Cause.QUOTA, NOW, END)
    assert host.events() == ["null-routed"]
    assert host.mails() == ["null-routed"]


def test_the_roster_knows_the_new_standing_without_reading_the_ledger_again(host: Host) -> None:
    for _ in range(2):
        host.judging.judge(host.roster, {host.web1: Counters(900, 0)}, [host.web1], host.moment)
    assert host.roster.entries[host.web1].vm.state is State.WARNED
    assert host.events() == ["warned"]


def test_the_announcement_names_the_addresses_and_the_reason(host: Host) -> None:
    host.judge(1001)
    (message,) = outbox.due(host.ledger, NOW, NOW + timedelta(hours=1))
    assert f"Addresses: {IP}, {IP6}" in message.body
    assert "used 1.00 KB of 1.00 KB (in and out together): over its allowance by 1 B" in message.body


def test_without_recipients_events_are_recorded_and_no_mail_waits(host: Host) -> None:
    host.settings = replace(host.settings, mail=MailSection())
    host.restart()
    host.judge(1001)
    assert host.events() == ["null-routed"]
    assert outbox.waiting(host.ledger) == 0
    assert not host.judging.queued


def test_a_new_period_releases_with_an_event(host: Host) -> None:
    host.judge(1001)
    host.new_period()
    assert host.judge()
    assert host.ledger.active_blocks() == {}
    assert host.events() == ["null-routed", "released"]
    assert blocklog.of_vm(host.ledger, host.web1)[0].lift_reason == "a new period began"


def test_a_raised_allowance_releases_at_once(host: Host) -> None:
    host.judge(1001)
    host.ledger.set_vm(host.web1, limit_bytes=200_000)
    assert host.judge()
    assert host.events() == ["null-routed", "released"]
    assert blocklog.of_vm(host.ledger, host.web1)[0].lift_reason == "its allowance covers its usage again"


def test_a_change_of_the_action_to_warn_releases_and_says_why(host: Host) -> None:
    host.judge(1001)
    host.ledger.set_vm(host.web1, action=Action.WARN)
    assert host.judge()
    assert blocklog.of_vm(host.ledger, host.web1)[0].lift_reason == "its allowance no longer blocks it"
    assert vm_of(host.ledger, host.web1).state_reason.endswith("its action is only to warn")


def test_a_lift_holds_to_the_end_of_the_period_and_not_beyond(host: Host) -> None:
    host.judge(1001)
    host.ledger.set_vm(host.web1, lifted_until=END)
    assert host.judge(5000)
    assert vm_of(host.ledger, host.web1).state is State.EXEMPT
    assert not host.judge(9000)
    assert host.events() == ["null-routed", "released"]
    host.new_period()
    assert not host.judge(0)
    assert host.judge(1001)
    assert host.events() == ["null-routed", "released", "null-routed"]


def test_a_block_by_the_admin_has_no_end_and_outlives_the_period(host: Host) -> None:
    host.ledger.set_vm(host.web1, blocked_reason="unpaid")
    assert host.judge(0)
    host.new_period()
    assert not host.judge(0)
    block = host.ledger.active_blocks()[host.web1]
    assert (block.cause, block.reason, block.until) == (Cause.ADMIN, "unpaid", None)


def test_a_vm_that_the_admin_unblocks_but_that_is_over_stays_blocked_for_its_usage(host: Host) -> None:
    host.ledger.set_vm(host.web1, blocked_reason="unpaid")
    host.judge(1001)
    host.ledger.set_vm(host.web1, blocked_reason=None)
    host.judge(1001)
    block = host.ledger.active_blocks()[host.web1]
    assert (block.cause, block.until) == (Cause.QUOTA, END)
    assert host.events() == ["null-routed"]


def test_a_moved_period_moves_the_end_of_the_block_without_another_announcement(host: Host) -> None:
    host.judge(1001)
    host.ledger.set_vm(host.web1, reset_day=25)
    host.judge(1001)
    assert host.ledger.active_blocks()[host.web1].until == utc("2026-03-25")
    assert host.events() == ["null-routed"]


def test_a_vm_that_nobody_added_is_over_without_a_block_or_a_message(host: Host) -> None:
    host.ledger.set_vm(host.web1, added_at=None)
    assert not host.judge(1001)
    assert vm_of(host.ledger, host.web1).state is State.OVER
    assert host.events() == []


def test_a_vm_that_is_added_while_it_is_over_is_blocked_and_its_reason_follows(host: Host) -> None:
    host.ledger.set_vm(host.web1, added_at=None)
    host.judge(1001)
    host.ledger.set_vm(host.web1, added_at=NOW)
    host.at += timedelta(minutes=1)
    assert host.judge(1001)
    vm = vm_of(host.ledger, host.web1)
    assert "nobody added" not in vm.state_reason
    assert vm.state_since == NOW
    assert host.events() == ["null-routed"]


def test_the_action_warn_announces_once_and_never_blocks(host: Host) -> None:
    host.ledger.set_vm(host.web1, action=Action.WARN)
    for used in (1001, 2000):
        assert not host.judge(used)
    assert host.events() == ["over"]
    assert host.mails() == ["over its allowance, not blocked"]


def test_the_guard_says_whether_a_message_waits(host: Host) -> None:
    host.judge(0)
    assert not host.judging.queued
    host.judge(1001)
    assert host.judging.queued


# a ledger that cannot be written


def test_a_vm_that_goes_over_while_the_ledger_cannot_be_written_is_still_blocked(host: Host) -> None:
    with unwritable(host.ledger):
        assert host.judging.judge(host.roster, {host.web1: Counters(1001, 0)}, [host.web1], host.moment)
        assert isinstance(host.judging.failure, LedgerError)
        host.enforce()
    assert host.method.asked[-1] == {IP: "web1", IP6: "web1"}
    assert set(host.over_file().addresses()) == {str(IP), str(IP6)}


def test_a_block_is_recorded_and_announced_once_the_ledger_can_be_written_again(host: Host) -> None:
    with unwritable(host.ledger):
        host.judging.judge(host.roster, {host.web1: Counters(1001, 0)}, [host.web1], host.moment)
    assert host.judge(1001)
    assert host.judging.failure is None
    assert host.events() == ["null-routed"]
    assert host.mails() == ["null-routed"]
    assert not host.judge(1001)


def test_a_warning_that_could_not_be_recorded_is_not_lost(host: Host) -> None:
    with unwritable(host.ledger):
        host.judging.judge(host.roster, {host.web1: Counters(900, 0)}, [host.web1], host.moment)
    host.judging.judge(host.roster, {host.web1: Counters(900, 0)}, [host.web1], host.moment)
    assert host.events() == ["warned"]


# enforcing


def test_every_method_and_the_hook_get_the_blocked_addresses(host: Host) -> None:
    host.judge(1001)
    assert sorted(host.enforce()) == [f"web1: {IP}", f"web1: {IP6}"]
    assert host.enforce() == []
    assert host.over_file().addresses() == {str(IP): "web1", str(IP6): "web1"}
    assert host.over_file().ledger == str(host.settings.ledger.path)


def test_methods_free_a_released_vm_and_it_holds_its_addresses(host: Host) -> None:
    host.judge(1001)
    host.enforce()
    host.ledger.set_vm(host.web1, limit_bytes=200_000)
    host.judge()
    host.enforce()
    assert host.method.asked[-1] == {}
    assert host.over_file().blocked == {}
    assert host.over_file().held == {str(IP), str(IP6)}


def test_the_hook_gets_the_name_of_a_blocked_vm_without_a_known_address(host: Host) -> None:
    db = add_vm(host.ledger, "db one\t2", NOW, limit_bytes=1000)
    host.usage[db] = Counters(1001, 0)
    host.judge(0)
    host.enforce()
    assert host.over_file().blocked == {"db one\t2": []}


def test_addresses_that_the_admin_gave_are_blocked_with_the_known_ones(host: Host) -> None:
    given = ip_address("192.0.2.99")
    host.ledger.set_vm(host.web1, ips=(given,))
    host.judge(1001)
    host.enforce()
    assert set(host.method.asked[-1]) == {IP, IP6, given}


def test_a_vm_that_went_down_stays_blocked(host: Host) -> None:
    host.judge(1001)
    (binding,) = host.ledger.live_bindings().values()
    viflog.end(host.ledger, binding.id, NOW, "vanished")
    host.enforce()
    assert set(host.method.asked[-1]) == {IP, IP6}


def test_an_address_that_went_to_another_vm_is_free_at_its_start(host: Host) -> None:
    host.judge(1001)
    (binding,) = host.ledger.live_bindings().values()
    viflog.end(host.ledger, binding.id, NOW, "vanished")
    start_vif(host.ledger, "heir", NOW + timedelta(hours=1), domid=2, ips=str(IP))
    host.judge(1001)
    host.enforce()
    assert host.method.asked[-1] == {IP6: "web1"}


def leave(host: Host, number: int, **words: str) -> None:
    """Leave the note of a hook that could not write into the ledger."""
    call = {"starts": "1", "domid": "2", "devid": "0", "kind": "vif", "name": "heir", "ips": str(IP)}
    call |= {"ifindex": "22", "interface": "vif2.0", **words}
    folder = host.settings.daemon.run_dir / "pending"
    folder.mkdir(exist_ok=True, parents=True)
    (folder / str(number)).write_text("".join(f"{key}\t{value}\n" for key, value in call.items()))


def test_the_address_is_free_too_if_only_a_hook_that_could_not_write_knows_of_the_start(host: Host) -> None:
    host.judge(2000)
    leave(host, 1)
    host.enforce()
    assert host.method.asked == [{IP6: "web1"}]
    assert host.over_file().held == {str(IP)}
    leave(host, 2, starts="0", ips="")
    host.enforce()
    assert host.method.asked[-1] == {IP: "web1", IP6: "web1"}


def test_the_address_is_free_too_if_the_vm_is_new(host: Host) -> None:
    host.judge(2000)
    start_vif(host.ledger, "heir", NOW, domid=2, ips=str(IP))
    host.enforce()
    assert host.method.asked == [{IP6: "web1"}]


def test_a_blocked_vm_in_a_hook_s_note_is_blocked_with_its_present_addresses(host: Host) -> None:
    host.judge(2000)
    leave(host, 1, name="web1", ips="192.0.2.99")
    host.enforce()
    assert host.method.asked[-1] == {IP: "web1", IP6: "web1", ip_address("192.0.2.99"): "web1"}


def test_a_protected_address_is_not_blocked_and_is_shown_as_a_problem(host: Host, settings: Settings) -> None:
    host.settings = replace(settings, enforce=EnforceSection(protect=(ip_network(f"{IP}/32"),)))
    host.restart()
    host.judge(1001)
    host.enforce()
    assert host.method.asked[-1] == {IP6: "web1"}
    assert host.reconciler.problems == [f"web1: {IP} is protected and is not blocked"]
    assert host.over_file().protected == [f"{IP}/32"]


def test_a_method_that_fails_is_a_problem_and_the_others_still_do_their_work(host: Host) -> None:
    other = MethodStandIn()
    host.method.fails = "iptables: it is locked"
    host.reconciler = Reconciler(host.ledger, host.settings, host.judging, [host.method, other], BOOT)
    host.judge(1001)
    host.enforce()
    assert host.reconciler.problems == ["iptables: it is locked"]
    assert set(other.asked[-1]) == {IP, IP6}


def test_a_bridge_that_iptables_does_not_see_is_announced_once_and_shown_as_long_as_it_lasts(
    host: Host, bridges: Callable[[bool], None]
) -> None:
    start_vif(host.ledger, "web1", NOW, domid=1, devid=1, bridge="xenbr0")
    bridges(False)
    host.judge(1001)
    for _ in range(2):
        host.enforce()
        assert "THE BLOCK DOES NOT HOLD" in host.reconciler.problems[0]
    bridges(True)
    host.enforce()
    assert host.reconciler.problems == []
    assert host.events() == ["null-routed", "unfiltered"]


def test_a_bridge_port_that_is_set_down_needs_no_iptables(host: Host, bridges: Callable[[bool], None]) -> None:
    port = start_vif(host.ledger, "web1", NOW, domid=1, devid=1, bridge="xenbr0")
    mark = host.settings.daemon.run_dir / "lowered" / str(port.ifindex)
    mark.parent.mkdir(parents=True)
    mark.touch()
    host.reconciler = Reconciler(
        host.ledger, host.settings, host.judging, [host.method, Link(str(host.settings.daemon.run_dir))], BOOT
    )
    bridges(False)
    host.judge(1001)
    host.enforce()
    assert (host.reconciler.problems, host.events()) == ([], ["null-routed"])


@dataclass
class Shutter:
    """Stands in for a block that shuts some vifs, by ifindex; keeps which it was asked to shut."""

    can: frozenset[int]
    name: str = "shutter"
    asked: dict[int, str] = field(default_factory=dict)
    spared: frozenset[int] = frozenset()

    def probe(self) -> str | None:
        return None

    def apply(self, wanted: Wanted) -> Outcome:
        self.asked, self.spared = dict(wanted.shut), wanted.starting
        return Outcome(shut=self.can)


def test_a_block_is_asked_to_shut_only_the_vifs_that_the_blocks_before_it_could_not(host: Host) -> None:
    one = start_vif(host.ledger, "web1", NOW, domid=1, devid=1)
    other = start_vif(host.ledger, "web1", NOW, domid=1, devid=2)
    first, second = Shutter(frozenset({one.ifindex})), Shutter(frozenset())
    host.reconciler = Reconciler(host.ledger, host.settings, host.judging, [first, second], BOOT)
    host.judge(1001)
    host.enforce()
    assert {one.ifindex, other.ifindex} <= first.asked.keys()
    assert second.asked == {index: name for index, name in first.asked.items() if index != one.ifindex}


@pytest.fixture
def shutter(host: Host) -> Shutter:
    """The one block of the host. The host's web1 is blocked, and a hook that could not write told that it started with
    vif2.0, ifindex 22."""
    shutter = Shutter(frozenset())
    host.reconciler = Reconciler(host.ledger, host.settings, host.judging, [shutter], BOOT)
    host.judge(1001)
    leave(host, 1, name="web1")
    host.enforce()
    return shutter


def test_a_blocked_vm_s_vif_is_shut_though_only_a_hook_that_could_not_write_knows_of_it(
    host: Host, shutter: Shutter
) -> None:
    assert shutter.asked[22] == "vif2.0"
    leave(host, 2, name="web1", starts="0", ips="")
    host.enforce()
    assert 22 not in shutter.asked


def test_the_vif_of_a_vm_in_good_standing_is_not_shut_or_left_shut_by_its_hook_s_note(
    host: Host, shutter: Shutter
) -> None:
    leave(host, 2, domid="3", ifindex="33", interface="vif3.0")
    host.ledger.set_vm(host.web1, limit_bytes=200_000)
    host.judge()
    host.enforce()
    assert (shutter.asked, shutter.spared) == ({}, frozenset())


def test_a_blocked_vm_that_may_reach_some_networks_has_no_vif_shut_by_its_hook_s_note(
    host: Host, shutter: Shutter
) -> None:
    host.ledger.set_vm(host.web1, allow=("192.0.2.53/32",))
    host.judge()
    host.enforce()
    assert (shutter.asked, shutter.spared) == ({}, frozenset())


def test_two_running_vms_with_one_address_are_a_problem(host: Host) -> None:
    start_vif(host.ledger, "web2", NOW, domid=9, ips=str(IP))
    host.judge(0)
    host.enforce()
    assert host.reconciler.problems == [f"web1 and web2: all run with {IP}: only one of them should"]


def test_a_run_folder_that_cannot_be_written_is_a_problem_and_the_blocks_stay(host: Host) -> None:
    host.settings.daemon.run_dir.write_text("a file is in the way")
    host.judge(1001)
    host.enforce()
    assert set(host.method.asked[-1]) == {IP, IP6}
    assert "hooks rely on the ledger alone" in host.reconciler.problems[0]


def test_a_vif_of_an_earlier_boot_is_not_shut_though_its_end_was_never_recorded(host: Host) -> None:
    host.judge(1001)
    for boot, shut in ((BOOT, True), ("the next boot", False)):
        shutter = Shutter(frozenset())
        host.reconciler = Reconciler(host.ledger, host.settings, host.judging, [shutter], boot)
        host.enforce()
        assert bool(shutter.asked) is shut

"""The hook, sourced by Debian's unmodified vif scripts: it records bindings, and blocks VMs."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.support.capture import Capture
from tests.support.guest import Guest
from tests.support.hooked import be_patient, blocked_vm, live, pending, succeeded
from tests.support.host import Host
from tests.support.pace import busy, until
from xenbw import config
from xenbw.blocks.block import Outcome, Wanted
from xenbw.blocks.iptables import Iptables
from xenbw.clock import Moment, boot_id
from xenbw.enforce.desired import Present
from xenbw.enforce.reconcile import Reconciler
from xenbw.judge.roster import Roster
from xenbw.judge.verdicts import Judge
from xenbw.ledger import viflog
from xenbw.ledger.ledger import Ledger
from xenbw.model import Kind

pytestmark = pytest.mark.kernel


# recording


@pytest.mark.parametrize("script", ["vif-bridge", "vif-route", "vif-nat"])
def test_each_vif_script_leaves_a_binding(host: Host, script: str) -> None:
    host.ledger()
    guest = host.start("web1", ("10.51.0.11",), script=script)
    (binding,) = live(host)
    assert (binding.domid, binding.devid, binding.kind, binding.interface) == (1, 0, Kind.VIF, "vif1.0")
    assert (binding.mac, binding.ips) == ("00:16:3e:50:01:00", (IPv4Address("10.51.0.11"),))
    assert binding.bridge == ("xenbr0" if script == "vif-bridge" else None)
    assert host.ledger().vms()[binding.vm_id].name == "web1"
    assert succeeded(guest)


def test_a_renamed_interface_is_recorded_under_its_new_name(host: Host) -> None:
    host.ledger()
    host.start("web1", vifname="web0")
    (binding,) = live(host)
    assert binding.interface == "web0"
    index = host.run(["cat", "/sys/class/net/web0/ifindex"]).stdout
    assert binding.ifindex == int(index)


def test_a_vif_may_have_several_addresses_of_both_families_with_prefix_lengths(host: Host) -> None:
    host.ledger()
    host.start("web1", config_ips=("10.50.0.11/24", "10.50.0.12", "fd50::11/64", "bananas", "10.0.0.0/8"))
    (binding,) = live(host)
    assert binding.ips == (IPv4Address("10.50.0.11"), IPv4Address("10.50.0.12"), IPv6Address("fd50::11"))


def test_a_vif_without_ip_has_a_binding(host: Host) -> None:
    host.ledger()
    host.start("web1", config_ips=())
    (binding,) = live(host)
    assert binding.ips == ()


def test_several_vifs_of_one_guest_are_recorded_side_by_side(host: Host) -> None:
    host.ledger()
    be_patient(host)
    guest = host.start("web1", tuple(f"10.50.0.{n}" for n in range(20, 28)), vifs=8)
    assert [(binding.devid, str(binding.ips[0])) for binding in live(host)] == [
        (n, f"10.50.0.{20 + n}") for n in range(8)
    ]
    assert len({binding.vm_id for binding in live(host)}) == 1
    assert succeeded(guest)


def test_the_end_of_the_vif_ends_the_binding(host: Host) -> None:
    host.ledger()
    guest = host.start("web1")
    guest.stop()
    (binding,) = viflog.latest(host.ledger())
    assert binding.ended_at is not None
    assert binding.ended_at > binding.started_at
    assert binding.end_reason == "offline"


def test_a_migrating_domain_is_recorded_under_its_own_name(host: Host) -> None:
    host.ledger()
    host.start("web1", received=True)
    assert [vm.name for vm in host.ledger().vms().values()] == ["web1"]


@pytest.mark.parametrize("name", ["sp ace:col", "$(reboot)", "a'b\"c", "-n", "grün", "tab\there", "%s%n"])
def test_a_vms_name_may_have_any_character(host: Host, name: str) -> None:
    host.ledger()
    blocked_vm(host, name)
    guest = host.start(name)
    assert succeeded(guest)
    assert [vm.name for vm in host.ledger().vms().values()] == [name]
    assert host.blocked(guest.address())


# blocking


@pytest.mark.parametrize("script", ["vif-bridge", "vif-route", "vif-nat"])
def test_a_blocked_vm_is_null_routed_before_its_script_ends_with_no_daemon(host: Host, script: str) -> None:
    blocked_vm(host, "web1")
    with Capture(host.outside) as wire:
        guest = host.start("web1", ("10.51.0.11",), script=script)
        assert host.blocked("10.51.0.11")
        assert not guest.ping("10.50.0.2", count=3, timeout=0.2)
        assert IPv4Address("10.51.0.11") not in wire.sources()
    assert succeeded(guest)


def test_a_vm_is_blocked_in_ipv4_and_ipv6_by_the_first_rules(host: Host) -> None:
    blocked_vm(host, "web1")
    host.run(["iptables-legacy", "-A", "FORWARD", "-j", "ACCEPT"])
    guest = host.start("web1", ("10.50.0.11", "fd50::11"))
    for version in (4, 6):
        rules = host.rules(version)
        for chain in ("INPUT", "OUTPUT", "FORWARD"):
            assert next(rule for rule in rules if rule.startswith(f"-A {chain} ")) == f"-A {chain} -j XENBW"
        assert host.blocked(guest.address(version))
    assert not guest.ping("fd50::2", timeout=0.2)
    assert not guest.ping("fd50::1", timeout=0.2)


def test_every_vif_of_a_blocked_guest_is_blocked_when_they_start_side_by_side(host: Host) -> None:
    blocked_vm(host, "web1")
    be_patient(host)
    addresses = tuple(f"10.50.0.{n}" for n in range(20, 26))
    host.start("web1", addresses, vifs=6)
    assert [address for address in addresses if not host.blocked(address)] == []


def test_with_a_damaged_ledger_a_blocked_vm_stays_blocked(running: Host) -> None:
    running.add("web1", blocked_reason="test")
    running.ask("sync")
    running.kill_daemon()
    running.run(["iptables-legacy", "-F"])
    for path in running.state.iterdir():
        path.write_bytes(b"not a ledger at all" * 1000)
    guest = running.start("web1")
    assert running.blocked(guest.address())
    assert succeeded(guest)
    assert len(pending(running)) == 1


def test_a_ledger_that_is_replaced_while_the_hook_waits_for_it_leaves_the_daemon_a_note(host: Host) -> None:
    be_patient(host)
    path, copy = host.ledger_path, host.ledger_path.with_name("copy")
    host.ledger()
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(copy)) as replacement:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # SQLite would write the old log into the new file
        db.backup(replacement)
    with ThreadPoolExecutor() as pool, closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.execute("BEGIN IMMEDIATE")
        start = pool.submit(host.start, "web1")
        assert until(lambda: len(pending(host)) == 1)  # it has begun
        time.sleep(0.3)
        copy.replace(path)
        old.execute("ROLLBACK")
        start.result()
    with closing(Ledger.open(path)) as ledger:
        assert (ledger.live_bindings(), len(pending(host))) == ({}, 1)


def test_without_a_daemon_an_address_that_a_vm_in_good_standing_took_over_is_freed(running: Host) -> None:
    running.add("debtor", blocked_reason="test")
    debtor = running.start("debtor", ("10.50.0.11",))
    other = running.start("other", ("10.50.0.12",))
    running.add("other", blocked_reason="test")
    running.ask("sync")
    assert running.blocked("10.50.0.11")
    assert running.blocked("10.50.0.12")
    running.kill_daemon()
    debtor.stop()
    heir = running.start("heir", ("10.50.0.11",))
    assert heir.reaches("10.50.0.2")
    assert not running.blocked("10.50.0.11")
    assert running.blocked(other.address())


@pytest.mark.parametrize("booted", [False, True])
def test_without_a_daemon_a_given_address_that_a_vm_in_good_standing_has_now_is_free(
    running: Host, booted: bool
) -> None:
    running.add("debtor", blocked_reason="test")
    debtor = running.start("debtor", ("10.50.0.11", "10.50.0.13"))
    running.xenbw("addvm", "heir", "--limit", "1TB", "--ip", "10.50.0.11", "--force")
    running.ask("sync")
    assert running.blocked("10.50.0.11")
    running.kill_daemon()
    debtor.stop()
    if booted:
        (running.run_dir / "over").unlink()
        running.run(["iptables-legacy", "-F"], check=True)
    heir = running.start("heir", ("10.50.0.11",), config_ips=())
    assert heir.reaches("10.50.0.2")
    running.start("debtor", ("10.50.0.13",))
    assert heir.reaches("10.50.0.2")
    assert running.blocked("10.50.0.13")
    running.guests[-1].stop()
    heir.stop()
    running.start("debtor", ("10.50.0.11",))
    assert running.blocked("10.50.0.11")


class Enforcer:
    """Applies null routes as the daemon does, when the test calls it. meanwhile: called after the plan is made."""

    name = "iptables"

    def __init__(self, host: Host) -> None:
        settings, self._moment = config.load(host.config), Moment(datetime.now(UTC), True)
        self._host, self._iptables = host, Iptables(4)
        ledger = host.ledger()
        self._reconciler = Reconciler(ledger, settings, Judge(ledger, settings), [self], boot_id())
        self._roster = Roster(host.ledger(), settings, record=False)
        self._roster.load(self._moment)
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self) -> None:
        with self._host.namespace.entered():
            self._reconciler.reconcile(self._roster, {}, self._moment, Present())

    def probe(self) -> str | None:
        return self._iptables.probe()

    def apply(self, wanted: Wanted) -> Outcome:
        self.meanwhile()
        return self._iptables.apply(wanted)


@pytest.fixture
def enforcer(host: Host) -> Enforcer:
    """An Enforcer that has null-routed 10.50.0.11, for a VM that is down."""
    blocked_vm(host, "debtor")
    host.start("debtor", ("10.50.0.11",)).stop()
    made = Enforcer(host)
    made()
    assert host.blocked("10.50.0.11")
    return made


@pytest.mark.parametrize("locked", [False, True])
def test_a_daemon_that_reconciles_all_the_time_does_not_block_an_address_again_that_another_vm_took_over(
    host: Host, enforcer: Enforcer, locked: bool
) -> None:
    with ExitStack() as stack:
        start = stack.enter_context(ThreadPoolExecutor(1)).submit(host.start, "heir", ("10.50.0.11",))
        if locked:
            stack.enter_context(host.ledger().transaction())
        while not start.done():
            enforcer()
            time.sleep(0.01)
        assert start.result().reaches("10.50.0.2")
        enforcer()
        assert not host.blocked("10.50.0.11")
        assert len(pending(host)) == int(locked)


def test_a_daemon_that_planned_before_another_vm_took_an_address_over_does_not_block_it_again(
    host: Host, enforcer: Enforcer
) -> None:
    with ThreadPoolExecutor(1) as others:

        def start() -> None:
            starts.append(others.submit(host.start, "heir", ("10.50.0.11",)))
            assert until(lambda: any(binding.ips for binding in live(host)))
            time.sleep(0.02)

        starts: list[Future[Guest]] = []
        enforcer.meanwhile = start
        enforcer()
        assert starts[0].result().reaches("10.50.0.2")


def test_after_a_boot_without_a_daemon_every_blocked_vm_stays_blocked(host: Host) -> None:
    for name in ("a", "b", "c"):
        blocked_vm(host, name)
    guests = [host.start(name) for name in ("a", "b", "c")]
    good = host.start("good")
    assert [host.blocked(guest.address()) for guest in (*guests, good)] == [True, True, True, False]


def test_after_a_boot_without_a_daemon_protected_addresses_stay_protected(running: Host) -> None:
    running.add("liar", blocked_reason="test")
    running.ask("sync")
    running.kill_daemon()
    (running.run_dir / "over").unlink()
    running.start("liar", ("10.50.0.66",), config_ips=("10.50.0.1", "10.50.0.66"))
    assert running.blocked("10.50.0.66")
    assert not [rule for rule in running.rules() if "10.50.0.1/32" in rule]


def test_an_address_whose_last_holder_is_down_can_be_blocked(running: Host) -> None:
    running.start("good", ("10.50.0.11",))
    running.ask("sync")
    running.kill_daemon()
    running.guests[0].stop()
    running.start_daemon()
    running.add("debtor", blocked_reason="test")
    running.ask("sync")
    running.kill_daemon()
    running.start("debtor", ("10.50.0.11",))
    assert running.blocked("10.50.0.11")


def test_an_address_that_a_vm_in_good_standing_gave_up_without_a_daemon_can_be_blocked(running: Host) -> None:
    running.add("debtor", blocked_reason="test")
    good = running.start("good", ("10.50.0.11",))
    running.ask("sync")
    running.kill_daemon()
    good.stop()
    running.start("debtor", ("10.50.0.11",))
    assert running.blocked("10.50.0.11")


def test_without_a_daemon_addresses_given_by_the_admin_are_blocked_again(running: Host) -> None:
    guest = running.start("web1", ("10.50.0.11",), config_ips=())
    running.xenbw("addvm", "web1", "--limit", "1GB", "--ip", "10.50.0.11")
    running.xenbw("block", "web1")
    running.kill_daemon()
    guest.stop()
    running.run(["iptables-legacy", "-F"])
    guest.start()
    assert running.blocked("10.50.0.11")


def test_tables_locked_by_another_program_do_not_delay_the_boot_and_the_binding_is_recorded(running: Host) -> None:
    running.add("web1", blocked_reason="test")
    running.ask("sync")
    holder = running.popen(["flock", "-o", "/run/xtables.lock", "sleep", "3600"], output=running.directory / "flock")
    guest = running.start("web1", ("10.50.0.11", "fd50::11"))
    assert succeeded(guest)
    assert guest.scripts[0].seconds < busy(2)
    assert len(live(running)) == 1
    holder.kill()
    assert until(lambda: running.blocked("10.50.0.11") and running.blocked("fd50::11"))


def test_dom0s_own_address_is_not_blocked_when_a_vm_claims_it(running: Host) -> None:
    running.add("liar", blocked_reason="test")
    running.ask("sync")
    running.kill_daemon()
    running.start("liar", ("10.50.0.66",), config_ips=("10.50.0.1", "10.50.0.66", "127.0.0.1", "0.0.0.0"))
    assert running.blocked("10.50.0.66")
    assert not [rule for rule in running.rules() if any(ip in rule for ip in ("10.50.0.1/32", "127.0.0.1", "0.0.0.0"))]

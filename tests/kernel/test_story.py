"""A VM's life as an admin would tell it: real daemon, real hook, real traffic, Debian's own scripts."""

from __future__ import annotations

import shutil
import signal
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.support.capture import Capture
from tests.support.host import Host
from tests.support.pace import at_last, until
from tests.support.story import LIMIT, overdrawn
from xenbw.model import Action, Counters

pytestmark = pytest.mark.kernel


def test_usage_equals_the_guests_own_counters(running: Host) -> None:
    guest = running.start("web1", ("10.50.0.11", "fd50::11"))
    guest.send(700_000)
    guest.receive(300_000, version=6)
    assert until(lambda: running.usage("web1") == guest.counters())


def test_usage_of_several_vifs_and_lives_adds_up(running: Host) -> None:
    guest = running.start("web1", ("10.50.0.11", "10.50.0.12"), vifs=2)
    total = Counters(0, 0)
    for _ in range(3):
        guest.send(100_000)
        guest.receive(50_000)
        total = total.plus(running.quiet(guest))
        assert at_last(lambda: running.usage("web1"), total) == total
        guest.reboot()
    documents = running.show("web1")["bindings"]
    assert len(documents) == 8
    assert sum(binding["in_bytes"] for binding in documents[:6]) == total.in_bytes


def test_a_vm_over_its_allowance_is_null_routed_in_both_directions(running: Host) -> None:
    neighbour = running.start("web2", ("10.50.0.12",))
    guest = overdrawn(running, ips=("10.50.0.11",))
    for address in ("10.50.0.1", "10.50.0.2", neighbour.address()):
        assert not guest.ping(address, timeout=0.2)
    assert guest.receive(1000) == 0
    assert not neighbour.ping(guest.address(), timeout=0.2)
    assert neighbour.reaches("10.50.0.2")
    assert running.show("web1")["state"] == "over"


def test_an_ipv6_address_is_null_routed(running: Host) -> None:
    guest = overdrawn(running, ips=("10.50.0.11", "fd50::11"))
    assert until(lambda: running.blocked("fd50::11"))
    assert not guest.ping("fd50::2", timeout=0.2)
    assert not guest.ping("fd50::1", timeout=0.2)


@pytest.mark.parametrize("script", ["vif-route", "vif-nat"])
def test_routed_and_natted_guests_are_blocked_and_released(running: Host, script: str) -> None:
    guest = overdrawn(running, ips=("10.51.0.11",), script=script)
    assert not guest.ping("10.50.0.1", timeout=0.2)
    running.xenbw("addvm", "web1", "--limit", "1TB")
    assert until(lambda: guest.ping("10.50.0.1", timeout=0.2))


def test_a_restart_under_a_new_domid_lets_no_packet_through(running: Host) -> None:
    guest = overdrawn(running)
    address = IPv4Address(guest.address())
    for _ in range(3):
        with Capture(running.outside) as wire:
            guest.reboot()
            guest.send(100_000, timeout=0.05)
            guest.ping("10.50.0.2", count=3, timeout=0.1)
            assert address not in wire.sources()
    assert guest.domid == 4


def test_a_restart_with_the_daemon_dead_and_the_firewall_flushed_lets_no_packet_through(running: Host) -> None:
    guest = overdrawn(running, ips=("10.50.0.11", "fd50::11"))
    running.kill_daemon()
    guest.stop()
    running.run(["iptables-legacy", "-F"])
    running.run(["iptables-legacy", "-X"])
    running.run(["ip6tables-legacy", "-F"])
    with Capture(running.outside) as wire:
        guest.start()
        guest.ping("10.50.0.2", count=3, timeout=0.1)
        guest.ping("fd50::2", count=3, timeout=0.1)
        seen = wire.sources()
    assert IPv4Address("10.50.0.11") not in seen
    assert IPv6Address("fd50::11") not in seen


def test_a_raised_allowance_releases_and_leaves_no_rule(running: Host) -> None:
    guest = overdrawn(running)
    running.xenbw("addvm", "web1", "--limit", "1TB")
    assert guest.reaches("10.50.0.2")
    assert not [rule for rule in running.rules() if "XENBW" in rule]
    assert running.show("web1")["state"] == "ok"


def test_a_lift_lasts_until_the_period_ends(running: Host) -> None:
    guest = overdrawn(running)
    running.xenbw("lift", "web1")
    assert guest.reaches("10.50.0.2")
    guest.send(100_000)
    guest.reboot()
    assert guest.reaches("10.50.0.2")
    assert running.show("web1")["state"] == "exempt"


def test_the_admin_blocks_and_lifts_a_vm_regardless_of_its_usage(running: Host) -> None:
    guest = running.start("web1")
    running.xenbw("block", "web1", "--reason", "unpaid")
    assert not guest.ping("10.50.0.2", timeout=0.2)
    assert (running.show("web1")["state"], running.show("web1")["reason"]) == ("blocked", "unpaid")
    running.xenbw("lift", "web1")
    assert guest.reaches("10.50.0.2")


def test_an_address_given_to_another_vm_is_not_blocked(running: Host) -> None:
    guest = overdrawn(running, ips=("10.50.0.11",))
    guest.stop()
    assert running.blocked("10.50.0.11")
    heir = running.start("web2", ("10.50.0.11",))
    assert heir.reaches("10.50.0.2")
    assert until(lambda: not running.blocked("10.50.0.11"))
    heir.stop()
    assert not running.blocked("10.50.0.11")


def test_a_policy_that_only_warns_blocks_no_vm(running: Host) -> None:
    guest = running.start("web1")
    running.add("web1", limit_bytes=LIMIT, action=Action.WARN)
    running.ask("sync")
    guest.send(LIMIT)
    assert until(lambda: running.show("web1")["state"] == "over")
    assert guest.reaches("10.50.0.2")


def test_by_default_a_vm_that_was_not_added_is_only_metered_against_the_default_limit() -> None:
    with Host('[default]\nlimit = "1MB"\n') as host:
        host.start_daemon()
        guest = host.start("web1")
        guest.send(LIMIT)
        assert until(lambda: host.show("web1")["state"] == "over")
        assert guest.reaches("10.50.0.2")
        host.configure('[default]\nlimit = "1MB"\nenforce = true\n')
        assert host.daemon is not None
        host.daemon.send_signal(1)
        host.notified("READY=1")
        assert until(lambda: host.blocked(guest.address()))


def test_dom0s_own_addresses_and_those_of_the_config_are_never_blocked() -> None:
    with Host('[enforce]\nprotect = ["10.50.0.64/26"]\n') as host:
        host.start_daemon()
        host.start(
            "liar", ("10.50.0.11",), config_ips=("10.50.0.1", "10.50.0.66", "10.50.0.11", "127.0.0.1", "0.0.0.0")
        )
        host.xenbw("block", "liar")
        assert host.blocked("10.50.0.11")
        assert len([rule for rule in host.rules() if rule.startswith("-A XENBW")]) == 2
        assert any("10.50.0.1 is protected" in problem for problem in host.ask("status")["problems"])


def test_dom0s_own_addresses_are_not_blocked_while_iproute2_fails() -> None:
    with Host() as host:
        failing, program = host.directory / "failing", host.bin_dir / "ip"
        program.write_text(f'#!/bin/sh\n[ -e {failing} ] && exit 1\nexec {shutil.which("ip")} "$@"\n')
        program.chmod(0o755)
        host.start_daemon()
        assert host.daemon is not None

        def is_told() -> bool:
            return any("ip -json addr: exit status 1" in problem for problem in host.ask("status")["problems"])

        failing.touch()
        host.daemon.send_signal(signal.SIGHUP)
        host.notified("READY=1")
        assert until(is_told)
        host.start("liar", ("10.50.0.11",), config_ips=("10.50.0.1", "10.50.0.11"))
        host.add("liar", blocked_reason="test")
        host.ask("sync")
        assert host.blocked("10.50.0.11")
        assert not host.blocked("10.50.0.1")
        # Nor by the next daemon, which never got them from iproute2, nor by the command line without a daemon.
        host.kill_daemon()
        host.start_daemon()
        assert until(is_told)
        assert not host.blocked("10.50.0.1")
        host.kill_daemon()
        assert "ip -json addr" in host.xenbw("block", "liar").stderr
        assert host.blocked("10.50.0.11")
        assert not host.blocked("10.50.0.1")
        failing.unlink()
        host.start_daemon()
        assert until(lambda: not is_told())


def test_the_block_holds_on_a_bridge_that_iptables_does_not_see(running: Host) -> None:
    # As by Debian's default, with br_netfilter not loaded.
    running.run(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0"], check=True)
    guest = overdrawn(running)
    neighbour = running.start("db1")
    assert not guest.ping("10.50.0.2")
    assert (guest.send(10_000, to=neighbour), guest.receive(10_000, sender=neighbour)) == (0, 0)
    assert running.ask("status")["problems"] == []


def test_a_blocked_guest_that_takes_another_address_gets_no_traffic_through(running: Host) -> None:
    guest = overdrawn(running)
    guest.namespace.ip("addr del 10.50.0.11/24 dev eth0", "addr add 10.50.0.99/24 dev eth0")
    assert not guest.ping("10.50.0.2")
    running.raise_links(guest)
    assert not guest.ping("10.50.0.2")


def test_traffic_that_a_block_refuses_is_not_usage(running: Host) -> None:
    guest = overdrawn(running, ips=("10.51.0.11",), script="vif-route")
    used = running.usage("web1")
    guest.send(100_000)
    running.ask("commit")
    (binding,) = running.ledger().live_bindings().values()
    assert running.usage("web1") == used
    assert binding.counted.refused_out_bytes > 0


def test_a_vm_that_is_lifted_without_a_daemon_has_its_network_back(running: Host) -> None:
    guest = overdrawn(running)
    running.stop_daemon()
    running.xenbw("lift", "web1")
    assert guest.reaches("10.50.0.2")


def test_a_removed_vm_is_released_and_starts_without_usage(running: Host) -> None:
    guest = overdrawn(running)
    running.xenbw("rmvm", "web1", "--yes")
    assert guest.reaches("10.50.0.2")
    assert running.usage("web1").out_bytes < LIMIT / 10


@pytest.mark.parametrize("ip", ["10.50.0.2/8", "10.50.0.2/255.255.0.0"])
def test_an_address_that_the_config_gives_as_a_range_is_not_null_routed(running: Host, ip: str) -> None:
    # The admin may have meant "any address that begins like this"; here the address is the router's.
    (running.etc / "r1.cfg").write_text(f"name = 'r1'\nvif = [ 'ip={ip}, bridge=xenbr0' ]\n")
    guest = running.start("r1", ("10.50.0.31",), config_ips=(ip,))
    said = running.xenbw("addvm", "r1", "--limit", "1GB").stderr
    assert repr(ip) in said
    running.xenbw("block", "r1", "--reason", "unpaid")
    assert not guest.ping("10.50.0.2", timeout=0.2)
    assert not running.blocked("10.50.0.2")
    assert " 1 received" in running.run(["ping", "-n", "-q", "-c", "1", "-W", "5", "10.50.0.2"]).stdout

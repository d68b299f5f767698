"""A blocked VM reaches only its allowed networks, as its resolver and its panel, so that its owner can see why."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.guest import Card, Guest
from tests.support.host import Host
from tests.support.pace import until
from tests.support.story import overdrawn

pytestmark = pytest.mark.kernel

OPEN, SHUT = ("10.50.0.2", "fd50::2"), ("10.50.0.1", "fd50::1")
IPS = ("10.50.0.11", "fd50::11")


def allowing(*networks: str) -> str:
    return f"[enforce]\ninterval = 1\nallow = [{', '.join(repr(network) for network in networks)}]\n"


@pytest.fixture
def running() -> Iterator[Host]:
    with Host(allowing(*OPEN)) as host:
        host.start_daemon()
        yield host


def reaches(guest: Guest, *addresses: str) -> bool:
    return all(guest.ping(address, count=2) for address in addresses)


def reaches_none(guest: Guest, *addresses: str) -> bool:
    return not any(guest.ping(address, timeout=0.2) for address in addresses)


def test_a_blocked_guest_reaches_only_allowed_networks(running: Host) -> None:
    neighbour = running.start("db1", ("10.50.0.12",))
    guest = overdrawn(running, ips=IPS)
    assert until(lambda: reaches(guest, *OPEN))
    assert reaches_none(guest, *SHUT, neighbour.address())
    assert not running.drops(guest.interface)


def test_a_blocked_routed_guest_reaches_only_allowed_networks(running: Host) -> None:
    guest = overdrawn(running, ips=("10.51.0.11",), script="vif-route")
    running.outside.ip("route replace 10.51.0.11 via 10.50.0.1")
    assert until(lambda: reaches(guest, OPEN[0]))
    assert reaches_none(guest, SHUT[0])


def test_with_the_daemon_dead_a_hook_lets_a_blocked_guest_reach_only_allowed_networks(running: Host) -> None:
    guest = overdrawn(running, ips=IPS)
    running.kill_daemon()
    for version, command in ((4, "iptables-legacy"), (6, "ip6tables-legacy")):
        running.run([command, "-F"], check=True)
        assert not any("RETURN" in rule for rule in running.rules(version))
    guest.reboot()
    assert reaches(guest, *OPEN)
    assert reaches_none(guest, *SHUT)


def test_traffic_with_allowed_networks_is_usage(running: Host) -> None:
    guest = overdrawn(running, ips=IPS)
    assert until(lambda: reaches(guest, *OPEN))
    before, counted = running.usage("web1"), guest.counters()
    assert guest.send(50_000) == 50_000
    sent = guest.counters().out_bytes - counted.out_bytes
    assert running.usage("web1").out_bytes - before.out_bytes >= sent > 50_000


def test_neighbour_discovery_cannot_carry_other_traffic(running: Host) -> None:
    # Neighbour messages for a resolver cannot carry other traffic: they stay on the link, and are few and short.
    guest = overdrawn(running, ips=IPS)
    assert until(lambda: reaches(guest, *OPEN))
    chains = running.run(["nft", "list", "table", "netdev", "xenbw"]).stdout
    assert chains.count("limit rate 20/second") == 4
    assert reaches_none(guest, "10.50.0.3", "fd50::3")


def test_a_reload_applies_a_changed_allow_list_and_an_empty_list_leaves_no_rule(running: Host) -> None:
    guest = overdrawn(running, ips=IPS)
    assert until(lambda: reaches(guest, *OPEN))
    running.configure(allowing(SHUT[0]))
    assert running.daemon is not None
    running.daemon.send_signal(1)
    assert until(lambda: reaches(guest, SHUT[0]))
    assert reaches_none(guest, *OPEN, SHUT[1])
    running.configure("")
    running.daemon.send_signal(1)
    assert until(lambda: running.drops(guest.interface))
    running.raise_links(guest)
    assert reaches_none(guest, *OPEN, *SHUT)
    assert "limit rate 20/second" not in running.run(["nft", "list", "table", "netdev", "xenbw"]).stdout
    assert not any("RETURN" in rule for rule in running.rules())


def test_a_vm_named_like_the_rule_comment_of_exceptions_is_blocked(running: Host) -> None:
    guest = overdrawn(running, "allows", ips=("10.50.0.11",))
    assert reaches_none(guest, SHUT[0])
    assert running.blocked(guest.address())


def give(host: Host, name: str, *allowed: str) -> None:
    """The admin gives one VM its own allow list."""
    host.xenbw("addvm", name, "--allow", *allowed)


def test_a_vm_with_its_own_list_reaches_that_and_other_vms_the_common_list(running: Host) -> None:
    guest, other = overdrawn(running, ips=IPS), overdrawn(running, "web2", ips=("10.50.0.12", "fd50::12"))
    give(running, "web1", *SHUT)
    assert until(lambda: reaches(guest, *SHUT))
    assert reaches_none(guest, *OPEN)
    assert reaches(other, *OPEN)
    assert reaches_none(other, *SHUT)
    give(running, "web1", "default")
    assert until(lambda: reaches(guest, *OPEN))
    assert reaches_none(guest, *SHUT)


def test_a_vm_with_an_empty_list_is_dropped_by_tc_beside_a_vm_with_exceptions(running: Host) -> None:
    guest, other = overdrawn(running, ips=IPS), overdrawn(running, "web2", ips=("10.50.0.12",))
    give(running, "web1", "none")
    assert until(lambda: running.drops(guest.interface))
    running.raise_links(guest)
    assert reaches_none(guest, *OPEN, *SHUT)
    assert reaches(other, OPEN[0])


def test_a_vm_may_have_its_own_list_without_a_common_list() -> None:
    with Host() as host:
        host.start_daemon()
        guest, other = overdrawn(host, ips=IPS), overdrawn(host, "web2", ips=("10.50.0.12",))
        give(host, "web1", *OPEN)
        assert until(lambda: reaches(guest, *OPEN))
        assert reaches_none(guest, *SHUT)
        assert (host.drops(guest.interface), host.drops(other.interface)) == (False, True)
        host.raise_links(other)
        assert reaches_none(other, *OPEN, *SHUT)


def test_null_routes_of_a_routed_guest_except_only_its_own_list(running: Host) -> None:
    guest = overdrawn(running, ips=("10.51.0.11",), script="vif-route")
    other = overdrawn(running, "web2", ips=("10.51.0.12",), script="vif-route")
    running.outside.ip("route replace 10.51.0.0/24 via 10.50.0.1")
    give(running, "web1", SHUT[0])
    # Remove the seals, which have the same exceptions.
    assert until(lambda: reaches(guest, SHUT[0]))
    running.kill_daemon()
    running.run(["nft", "flush", "ruleset"], check=True)
    assert reaches(guest, SHUT[0])
    assert reaches_none(guest, OPEN[0])
    assert reaches(other, OPEN[0])
    assert reaches_none(other, SHUT[0])


@pytest.mark.parametrize("known_from", ["the daemon's file", "the ledger"])
def test_with_the_daemon_dead_a_hook_applies_a_vms_own_list(running: Host, known_from: str) -> None:
    guest = overdrawn(running, ips=IPS)
    give(running, "web1", *SHUT)
    running.kill_daemon()
    running.run(["nft", "flush", "ruleset"], check=True)
    if known_from == "the ledger":
        (running.run_dir / "over").unlink()
    guest.reboot()
    assert reaches(guest, *SHUT)
    assert reaches_none(guest, *OPEN)


def test_a_vif_attached_with_the_daemon_dead_reaches_only_its_vms_own_list(running: Host) -> None:
    guest, other = overdrawn(running, ips=IPS), overdrawn(running, "web2", ips=("10.50.0.12",))
    give(running, "web1", *SHUT)
    assert until(lambda: reaches(guest, *SHUT))
    running.kill_daemon()
    for one, own, foreign in ((guest, SHUT, OPEN), (other, OPEN, SHUT)):
        card = attach(running, one)
        everywhere = (f"route replace {to} dev eth{card.devid}" for to in (*own, *foreign))
        one.namespace.ip(f"addr add fd50::{one.domid:x}:77/64 dev eth{card.devid} nodad", *everywhere)
        assert until(lambda: reaches(one, *own))  # noqa: B023 (it is called at once)
        assert reaches_none(one, *foreign)


def attach(host: Host, guest: Guest) -> Card:
    """A vif that its vif script has made a bridge port, before the script calls the hook."""
    card = guest.attach(f"10.50.0.{70 + guest.domid}")
    interface = guest.interfaces[card.devid]
    host.namespace.ip(f"link set {interface} master xenbr0 up")
    assert until(lambda: host.run(["cat", f"/sys/class/net/{interface}/brport/state"]).stdout == "3\n")
    return card


def test_without_a_daemon_a_changed_list_applies_at_once(running: Host) -> None:
    guest = overdrawn(running, ips=IPS)
    running.kill_daemon()
    give(running, "web1", *SHUT)
    assert until(lambda: reaches(guest, *SHUT))
    assert reaches_none(guest, *OPEN)
    give(running, "web1", "none")
    assert running.drops(guest.interface)


def test_no_rule_is_left_of_a_released_vms_list(running: Host) -> None:
    guest = overdrawn(running, ips=IPS)
    give(running, "web1", *SHUT)
    assert until(lambda: reaches(guest, *SHUT))
    running.xenbw("lift", "web1")
    assert reaches(guest, *OPEN, *SHUT)
    assert not any("RETURN" in rule for version in (4, 6) for rule in running.rules(version))
    assert "10.50.0.1" not in running.run(["nft", "list", "ruleset"], check=True).stdout


def test_what_was_refused_is_no_usage_when_a_chain_was_deleted_meanwhile(running: Host) -> None:
    guest = overdrawn(running, ips=IPS)
    used = sum(running.usage("web1"))
    index = running.run(["cat", f"/sys/class/net/{guest.interface}/ifindex"], check=True).stdout.strip()
    assert running.daemon is not None
    # The daemon takes note of nothing until both have happened.
    running.daemon.send_signal(signal.SIGSTOP)
    guest.send(500_000, to="dom0")
    running.run(["nft", "delete", "chain", "netdev", "xenbw", f"v{guest.domid}.0.{index}-out"], check=True)
    running.daemon.send_signal(signal.SIGCONT)
    assert until(lambda: "-out {" in running.run(["nft", "list", "table", "netdev", "xenbw"]).stdout)
    assert sum(running.usage("web1")) - used < 100_000

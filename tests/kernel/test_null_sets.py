"""Null routes in nft's sets, with real packets: on hosts where the admin wants them, and where the kernel has no legacy
tables. Seals, latches and links, which would stop the same packets, are taken away first."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.nullroutes import DOM0, IPS, NFT, OUTSIDE
from tests.support.pace import until
from tests.support.story import overdrawn
from xenbw.allow import Exceptions
from xenbw.blocks import null_text, registry

pytestmark = pytest.mark.kernel

_OTHERS = tuple((family, "xenbw") for family in ("netdev", "bridge", "inet", "arp"))


@pytest.fixture
def running() -> Iterator[Host]:
    """The admin wants null routes in nft, and iptables does not see what the bridge forwards."""
    with Host(NFT) as host:
        unfiltered(host)
        host.start_daemon()
        yield host


@pytest.fixture
def modern() -> Iterator[Host]:
    """The kernel has no legacy tables."""
    with Host(legacy=False) as host:
        unfiltered(host)
        yield host


def unfiltered(host: Host) -> None:
    for family in ("iptables", "ip6tables"):
        host.run(["sysctl", "-qw", f"net.bridge.bridge-nf-call-{family}=0"], check=True)


def bare(host: Host, *guests: Guest) -> None:
    """With the daemon dead, take away everything that stops packets except the null routes."""
    host.kill_daemon()
    for family, table in _OTHERS:
        host.run(["nft", "delete", "table", family, table])
    host.raise_links(*guests)


def sets(host: Host) -> str:
    """The null routes as nft prints them, in the order in which it was told of them."""
    tables = (host.run(["nft", "list", "table", family, "xenbw-null"]).stdout for family in ("inet", "bridge"))
    return "".join(sorted("".join(tables).replace(",", "\n").split()))


def reaches(guest: Guest, *addresses: str) -> bool:
    """At once on an idle machine, a moment after the guest's link came up."""
    return until(lambda: all(guest.ping(address, count=2) for address in addresses), 2)


def reaches_none(guest: Guest, *addresses: str) -> bool:
    return not any(guest.ping(address, timeout=0.2) for address in addresses)


def gets_nothing(guest: Guest, *senders: Guest | str) -> bool:
    return not any(guest.receive(3000, sender, version=version) for sender in senders for version in (4, 6))


def test_a_bridged_guest_exchanges_no_packet_with_anybody(running: Host) -> None:
    neighbour = running.start("db1", ("10.50.0.12", "fd50::12"))
    guest = overdrawn(running, ips=IPS)
    bare(running, guest, neighbour)
    assert reaches_none(guest, *OUTSIDE, *DOM0, "10.50.0.12", "fd50::12")
    assert gets_nothing(guest, "outside", "dom0", neighbour)
    assert reaches(neighbour, *OUTSIDE, *DOM0)


def test_a_routed_guest_exchanges_no_packet_with_anybody(running: Host) -> None:
    ips = ("10.51.0.11", "fd51::11")
    # Debian's vif-route takes no IPv6 addresses.
    guest = overdrawn(running, ips=ips, config_ips=ips[:1], script="vif-route")
    running.xenbw("addvm", "web1", "--ip", *ips)
    assert until(lambda: all(map(running.in_sets, ips)))
    running.namespace.ip(f"route replace fd51::11 dev {guest.interface}", f"addr add fd51::1 dev {guest.interface}")
    guest.namespace.ip("route replace default via fd51::1 dev eth0 onlink")
    running.run(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"], check=True)
    running.outside.ip("route replace 10.51.0.11 via 10.50.0.1", "route replace fd51::11 via fd50::1")
    bare(running, guest)
    assert reaches_none(guest, *OUTSIDE, *DOM0)
    assert gets_nothing(guest, "outside", "dom0")
    # Without the null routes all of it passes: so they stopped it.
    running.run(["nft", "flush", "ruleset"], check=True)
    assert reaches(guest, *OUTSIDE, *DOM0)


def test_who_sends_to_a_blocked_guest_is_told_that_it_is_refused(running: Host) -> None:
    guest = overdrawn(running, ips=("10.51.0.11",), script="vif-route")
    running.outside.ip("route replace 10.51.0.11 via 10.50.0.1")
    bare(running, guest)
    told = running.outside.run(["ping", "-n", "-c", "1", "-W", "1", guest.address()]).stdout
    assert "Destination Port Unreachable" in told


@pytest.mark.parametrize("own", [False, True])
def test_exceptions_pass_and_nothing_else(running: Host, own: bool) -> None:
    guest, other = overdrawn(running, ips=IPS), overdrawn(running, "web2", ips=("10.50.0.12", "fd50::12"))
    # A list of a VM's own may be empty.
    running.configure(f"{NFT}allow = {[*OUTSIDE] if not own else []}\n")
    running.xenbw("addvm", "web2", "--allow", *(("none",) if not own else OUTSIDE))
    assert running.daemon is not None
    running.daemon.send_signal(signal.SIGHUP)
    lucky, unlucky = (other, guest) if own else (guest, other)
    assert until(lambda: reaches(lucky, *OUTSIDE))
    bare(running, guest, other)
    assert reaches(lucky, *OUTSIDE)
    assert reaches_none(lucky, *DOM0, unlucky.address(), unlucky.address(6))
    assert reaches_none(unlucky, *DOM0, *OUTSIDE)


def test_exceptions_that_contain_the_vms_own_address_free_no_other(running: Host) -> None:
    running.configure(f'{NFT}allow = ["10.50.0.8/29"]\n')
    assert running.daemon is not None
    running.daemon.send_signal(signal.SIGHUP)
    neighbour = running.start("db1", ("10.50.0.12",))
    guest = overdrawn(running, ips=("10.50.0.11",))
    bare(running, guest)
    assert reaches(guest, neighbour.address())
    assert reaches_none(guest, OUTSIDE[0], DOM0[0])


def test_a_release_leaves_no_rule(running: Host) -> None:
    guest = overdrawn(running, ips=IPS)
    running.xenbw("lift", "web1")
    assert reaches(guest, *OUTSIDE, *DOM0)
    assert sets(running) == ""


def test_one_of_two_vms_can_be_released(running: Host) -> None:
    guest, other = overdrawn(running, ips=IPS), overdrawn(running, "web2", ips=("10.50.0.12",))
    running.xenbw("lift", "web1")
    assert not running.blocked(guest.address())
    assert running.blocked(other.address())
    assert "web1" not in sets(running)


@pytest.mark.parametrize(
    "meddling",
    [
        "delete table inet xenbw-null",
        "delete table bridge xenbw-null",
        "flush ruleset",
        "flush chain inet xenbw-null forward",
        "insert rule inet xenbw-null from accept",
        "insert rule bridge xenbw-null to accept",
        "delete element inet xenbw-null v4 { 10.50.0.11 }",
        "add element bridge xenbw-null v6 { fd50::99 }",
        "flush set inet xenbw-null v6",
    ],
)
def test_null_routes_that_another_program_changed_are_repaired(running: Host, meddling: str) -> None:
    guest = overdrawn(running, ips=IPS)
    good = sets(running)
    running.run(["nft", meddling], check=True)
    assert until(lambda: sets(running) == good)
    told = "null routes restored, another program changes the firewall: nft: "
    assert until(lambda: told in running.log.read_text())
    assert reaches_none(guest, *OUTSIDE)


def test_an_exception_that_another_program_deleted_is_repaired(running: Host) -> None:
    running.configure(f"{NFT}allow = {[*OUTSIDE]}\n")
    assert running.daemon is not None
    running.daemon.send_signal(signal.SIGHUP)
    overdrawn(running, ips=IPS)
    assert until(lambda: "allowed-v4" in sets(running))
    good = sets(running)
    running.run(["nft", "flush", "set", "inet", "xenbw-null", "allowed-v4"], check=True)
    assert until(lambda: sets(running) == good)


def test_a_hooks_null_routes_are_the_daemons(running: Host) -> None:
    running.configure(f"{NFT}allow = {[*OUTSIDE]}\n")
    assert running.daemon is not None
    running.daemon.send_signal(signal.SIGHUP)
    guest = overdrawn(running, ips=IPS)
    good = sets(running)
    guest.reboot()
    running.ask("sync")
    assert sets(running) == good
    assert "restored" not in running.log.read_text()


@pytest.mark.parametrize("known_from", ["the daemon's file", "the ledger"])
def test_with_the_daemon_dead_a_hook_null_routes_a_vm_that_starts(running: Host, known_from: str) -> None:
    guest = overdrawn(running, ips=IPS)
    running.kill_daemon()
    running.run(["nft", "flush", "ruleset"], check=True)
    if known_from == "the ledger":
        (running.run_dir / "over").unlink()
    guest.reboot()
    assert all(running.in_sets(address) for address in IPS)
    assert not any("XENBW" in rule for version in (4, 6) for rule in running.rules(version))
    for family, table in _OTHERS:
        running.run(["nft", "delete", "table", family, table])
    running.raise_links(guest)
    assert reaches_none(guest, *OUTSIDE, *DOM0)


def test_with_the_daemon_dead_a_hook_frees_an_address_for_a_vm_in_good_standing(running: Host) -> None:
    overdrawn(running, "debtor", ips=IPS).stop()
    assert all(running.in_sets(address) for address in IPS)
    running.kill_daemon()
    heir = running.start("heir", IPS)
    assert reaches(heir, *OUTSIDE)
    assert sets(running) == ""


def test_an_address_that_a_hook_null_routed_in_nft_is_freed_by_a_hook_that_finds_iptables(host: Host) -> None:
    host.start_daemon()
    overdrawn(host, "debtor", ips=IPS).stop()
    host.kill_daemon()
    text = null_text.write(dict.fromkeys(IPS, "debtor"), Exceptions(), "drop")
    host.run(["nft", "-f", "-"], text_input=text, check=True)
    heir = host.start("heir", IPS)
    assert reaches(heir, *OUTSIDE)
    assert sets(host) == ""


# without the legacy tables


def test_without_legacy_tables_null_routes_are_in_nft(modern: Host) -> None:
    modern.start_daemon()
    guest = overdrawn(modern, ips=IPS)
    assert modern.ask("status")["null_route_method"] == "nft"
    assert modern.ask("status")["problems"] == []
    assert "null routes    2 (nft list table inet xenbw-null)\n" in modern.xenbw("status").stdout
    bare(modern, guest)
    assert reaches_none(guest, *OUTSIDE, *DOM0)


def test_without_legacy_tables_a_wish_for_iptables_is_a_problem_and_nft_holds(modern: Host) -> None:
    modern.configure('[enforce]\nnull_routes = "iptables"\n')
    modern.start_daemon()
    guest = overdrawn(modern, ips=IPS)
    (problem,) = modern.ask("status")["problems"]
    assert problem.startswith('null_routes = "iptables" cannot be used, and nft is: the kernel has no legacy')
    assert modern.in_sets(guest.address())


def test_after_a_boot_into_a_kernel_without_legacy_tables_a_hook_needs_no_daemon(host: Host) -> None:
    host.start_daemon()
    guest = overdrawn(host, ips=IPS)
    assert host.in_chain(guest.address())
    host.kill_daemon()
    (host.run_dir / "over").unlink()
    host.run(["nft", "flush", "ruleset"], check=True)
    host.lose_legacy_tables()
    guest.reboot()
    assert all(map(host.in_sets, IPS))
    host.start_daemon()
    assert all(map(host.in_sets, IPS))
    assert host.ask("status")["problems"] == []


def test_without_legacy_tables_the_command_line_needs_no_daemon(modern: Host) -> None:
    guest = modern.start("web1", IPS)
    modern.xenbw("addvm", "web1", "--limit", "1GB", "--ip", *IPS)
    said = modern.xenbw("block", "web1")
    assert "web1: blocked, null-routed: 10.50.0.11, fd50::11" in said.stdout
    assert all(map(modern.in_sets, IPS))
    modern.raise_links(guest)
    modern.xenbw("lift", "web1")
    assert reaches(guest, *OUTSIDE)
    assert sets(modern) == ""


def test_without_legacy_tables_doctor_finds_nothing_wrong(modern: Host) -> None:
    modern.start_daemon()
    overdrawn(modern, ips=IPS)
    found = json.loads(modern.xenbw("doctor", "--json", check=False).stdout)["findings"]
    about = {one["topic"]: one for one in found if one["topic"] in ("null route", "firewall", "bridges")}
    assert {one["level"] for one in about.values()} == {"PASS"}, about
    assert "nft has 2 null routes" in about["firewall"]["text"]


def test_without_python_iptables_everything_else_works(tmp_path: Path) -> None:
    (tmp_path / "iptc.py").write_text('raise ImportError("No module named iptc")\n')
    with Host(libraries=[tmp_path]) as host:
        host.start_daemon()
        guest = overdrawn(host, ips=IPS)
        assert all(map(host.in_sets, IPS))
        assert host.ask("status")["problems"] == []
        found = json.loads(host.xenbw("doctor", "--json", check=False).stdout)["findings"]
        assert {one["level"] for one in found if one["topic"] == "null route"} == {"PASS"}
        host.xenbw("lift", "web1")
        assert reaches(guest, *OUTSIDE)


@pytest.mark.parametrize("name", ["sp ace:col", "$(reboot)", "a'b\"c", "{ }", "grün\\", "x" * 200])
def test_a_vms_name_may_have_any_character(running: Host, name: str) -> None:
    running.add(name, blocked_reason="test")
    running.ask("sync")
    guest = running.start(name)
    assert running.in_sets(guest.address())
    running.ask("sync")
    assert running.in_sets(guest.address())
    assert running.ask("status")["problems"] == []


def test_the_packages_removal_removes_the_sets(running: Host) -> None:
    guest = overdrawn(running, ips=IPS)
    running.stop_daemon()
    running.run(["sh", "-euc", registry.undo(), "undo", running.run_dir], check=True)
    assert sets(running) == ""
    running.raise_links(guest)
    assert reaches(guest, *OUTSIDE)

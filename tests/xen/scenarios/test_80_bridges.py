"""Guests that are routed, on Open vSwitch, or on a bridge that iptables does not see; and either kind of iptables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig import guest, outside, package, shell
from rig.guest import Card, Guest

_ROUTED_IP, _SWITCHED_IP, _SWITCHED_OUTSIDE = "10.78.0.11", "10.79.0.11", "10.79.0.2"


@dataclass(frozen=True)
class Elsewhere:
    """A guest with vif-route, and a guest with vif-openvswitch."""

    routed: Guest
    switched: Guest


@pytest.fixture(scope="module", autouse=True)
def elsewhere(xenbw: None) -> Iterator[Elsewhere]:
    """Both guests run. The host outside is connected to the switch as well, as 10.79.0.2."""
    _make_switch()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    guests = Elsewhere(
        Guest(
            "routed",
            [Card("00:16:3e:77:03:01", (_ROUTED_IP,), options="script=vif-route,gatewaydev=xenbr0")],
            shout=("10.77.0.2",),
        ),
        Guest(
            "switched",
            [Card("00:16:3e:77:03:02", (_SWITCHED_IP,), options="script=vif-openvswitch,bridge=ovsbr0")],
            gateway="10.79.0.1",
            shout=(_SWITCHED_OUTSIDE,),
        ),
    )
    guest.create(guests.routed, guests.switched)
    yield guests
    guest.forget(guests.routed, guests.switched)


def _make_switch() -> None:
    shell.run("systemctl", "start", "openvswitch-switch")
    shell.run("ip", "link", "add", "outside2", "type", "veth", "peer", "name", "eth1", "netns", "outside")
    shell.run("ovs-vsctl", "add-br", "ovsbr0", "--", "add-port", "ovsbr0", "outside2")
    for command in (
        "link set outside2 up",
        "link set ovsbr0 up",
        "addr add 10.79.0.1/24 dev ovsbr0",
        f"-n outside addr add {_SWITCHED_OUTSIDE}/24 dev eth1",
        "-n outside link set eth1 up",
    ):
        shell.run("ip", *command.split())


def test_a_routed_guest_is_metered(elsewhere: Elsewhere) -> None:
    elsewhere.routed.download(1, "10.77.0.2")
    elsewhere.routed.upload(1, "10.77.0.2")
    package.settled(elsewhere.routed)


def test_a_routed_guest_is_blocked_and_released(elsewhere: Elsewhere) -> None:
    package.send_over("routed")
    assert elsewhere.routed.silent("10.77.0.1", "10.77.0.2")
    assert not outside.ping(_ROUTED_IP)
    package.release("routed")
    assert elsewhere.routed.pings("10.77.0.2")


def test_a_guest_on_open_vswitch_is_metered(elsewhere: Elsewhere) -> None:
    elsewhere.switched.download(1, _SWITCHED_OUTSIDE)
    elsewhere.switched.upload(1, _SWITCHED_OUTSIDE)
    package.settled(elsewhere.switched)


def test_a_guest_on_open_vswitch_is_blocked(elsewhere: Elsewhere) -> None:
    package.xenbw("addvm", "switched", "--limit", "1KB", "--ip", _SWITCHED_IP)
    try:
        assert elsewhere.switched.silent(_SWITCHED_OUTSIDE)
    finally:
        package.release("switched")


@pytest.fixture
def unfiltered() -> Iterator[None]:
    """iptables does not see bridged frames, as by Debian's default, without br_netfilter."""
    switches = [Path(f"/proc/sys/net/bridge/bridge-nf-call-{family}") for family in ("iptables", "ip6tables")]
    for switch in switches:
        switch.write_text("0")
    yield
    for switch in switches:
        switch.write_text("1")


@pytest.mark.usefixtures("unfiltered")
def test_on_an_unfiltered_bridge_a_blocked_guest_does_not_reach_dom0(web: Guest) -> None:
    package.send_over("web1")
    assert web.silent("10.77.0.1", "fd77::1")


@pytest.mark.usefixtures("unfiltered")
def test_on_an_unfiltered_bridge_a_blocked_guest_reaches_no_other_host(web: Guest) -> None:
    package.send_over("web1")
    since = outside.mark()
    assert web.silent("10.77.0.2", "10.77.0.12", "fd77::2")
    assert outside.packets(since, web) == []


@pytest.mark.parametrize("alternative", ["iptables-legacy", "iptables-nft"])
def test_a_guest_is_blocked_with_either_iptables_on_the_host(alternative: str, web: Guest) -> None:
    package.release("web1")
    for family in ("iptables", "ip6tables"):
        shell.run("update-alternatives", "--set", family, f"/usr/sbin/{alternative.replace('iptables', family)}")
    try:
        assert web.pings("10.77.0.2")
        package.send_over("web1")
        assert web.silent("10.77.0.1", "10.77.0.2", "fd77::2")
        package.release("web1")
        assert web.pings("10.77.0.2")
    finally:
        for family in ("iptables", "ip6tables"):
            shell.run("update-alternatives", "--auto", family)

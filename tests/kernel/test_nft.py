"""The nft meter: exact to the last byte, however a vif ends, and which bytes are a guest's usage."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.support.frames import (
    BROADCAST,
    arp_reply,
    frame,
    mac_bytes,
    neighbour_advertisement,
    router_solicitation,
    send_frames,
)
from tests.support.guest import Guest, agree
from tests.support.host import Host
from tests.support.pace import until
from tests.support.packets import fragments, ip4, udp
from xenbw.model import Amounts, Counters
from xenbw.nft import nft
from xenbw.nft.chains import Chains
from xenbw.nft.pipe import hand_to_nft
from xenbw.nft.port import Port
from xenbw.nft.tables import Tables

STRANGER = "00:16:3e:99:99:99"
ROUTER = "02:00:00:00:00:01"
LOAD = bytes(1000)
ENDS: dict[str, Callable[[Guest], None]] = {"destroy": Guest.destroy, "shutdown": Guest.stop, "reboot": Guest.reboot}


def weigh(guest: Guest) -> Guest:
    """Restart the guest, with a scale on its card."""
    guest.destroy()
    guest.weighed = True
    guest.start()
    return guest


def weight(guest: Guest) -> Counters:
    assert guest.scales is not None
    return guest.scales.total()


def counted(host: Host, guest: Guest) -> Amounts:
    """The ledger's amounts for the guest's present life."""
    host.ask("commit")
    (binding,) = (b for b in host.ledger().live_bindings().values() if b.domid == guest.domid)
    return binding.counted


# the last byte


@pytest.mark.parametrize("end", ENDS)
def test_traffic_right_up_to_the_end_is_counted_to_the_last_byte(running: Host, end: str) -> None:
    guest = weigh(running.start("web1"))
    total = Counters(0, 0)
    for number in range(17):
        scales = guest.scales
        assert scales is not None
        guest.send(20_000 + number)
        guest.receive(30_000 + number)
        if end != "destroy":
            # No reading between this and the end. Else dom0's own multicasts count that still go to a card which
            # the guest has just taken down.
            running.quiet(guest)
        ENDS[end](guest)
        total = total.plus(scales.total())
        if not guest.running:
            guest.start()
    running.quiet(guest)
    total = total.plus(weight(guest))
    assert until(lambda: _since_weighed(running) == total), (_since_weighed(running), total)


def _since_weighed(host: Host) -> Counters:
    """The bytes of web1's lives after the first, which was not weighed."""
    host.ask("commit")
    lives = host.show("web1")["bindings"][1:]
    return Counters(sum(life["in_bytes"] for life in lives), sum(life["out_bytes"] for life in lives))


def test_traffic_while_no_daemon_ran_is_counted_although_the_guest_is_gone(running: Host) -> None:
    guest = weigh(running.start("web1"))
    running.kill_daemon()
    total = Counters(0, 0)
    for _ in range(3):
        scales = guest.scales
        assert scales is not None
        guest.send(50_000)
        guest.receive(70_000)
        running.quiet(guest)
        guest.reboot()
        total = total.plus(scales.total())
    guest.send(10_000)
    running.start_daemon()
    guest.send(10_000)
    running.quiet(guest)
    total = total.plus(weight(guest))
    assert until(lambda: _since_weighed(running) == total), (_since_weighed(running), total)


def test_no_chain_or_counter_is_left_of_a_gone_guest(running: Host) -> None:
    guest = running.start("web1")
    guest.send(1000)
    guest.destroy()
    assert until(lambda: not running.ledger().live_bindings())
    assert until(lambda: "v1.0" not in running.run(["nft", "list", "ruleset"]).stdout)
    for one in ("own", "sealed", *nft.NOTICED):
        listed = running.run(["nft", "list", "set", "netdev", "xenbw", one]).stdout
        assert f"set {one} {{" in listed and "elements" not in listed


# other programs change the rules


@pytest.mark.parametrize("blow", ["flush ruleset", "flush table netdev xenbw", "delete table netdev xenbw"])
def test_after_a_flush_of_the_rules_the_counters_are_back_and_no_byte_is_lost(running: Host, blow: str) -> None:
    guest = weigh(running.start("web1"))
    guest.send(100_000)
    running.ask("commit")
    assert until(lambda: counted(running, guest).usage == weight(guest))
    # A round or two without traffic, in which the kernel's counters are compared with ours.
    time.sleep(2.2)
    running.run(["nft", *blow.split()], check=True)
    chains = ["nft", "list", "chain", "netdev", "xenbw", f"v{guest.domid}.0.{_ifindex(running, guest)}-in"]
    assert until(lambda: "jump" in running.run(chains).stdout, seconds=1)
    guest.send(100_000)
    running.quiet(guest)
    assert until(lambda: agree(counted(running, guest).usage, weight(guest))), (counted(running, guest), weight(guest))
    assert running.ask("status")["meter_gaps"] == 1


def _ifindex(host: Host, guest: Guest) -> int:
    return int(host.run(["cat", f"/sys/class/net/{guest.interface}/ifindex"]).stdout)


# usage and flood


@pytest.fixture
def guest(running: Host) -> Iterator[Guest]:
    """A guest without traffic, whose MAC the bridge has learned."""
    guest = running.start("web1")
    guest.ping("10.50.0.2")
    return guest


def flood(host: Host, guest: Guest, to: str = STRANGER, kind: int = 0x88B5, times: int = 100) -> Amounts:
    """Send frames for another MAC to the guest's vif; returns how many bytes of them were counted."""
    before = counted(host, guest)
    send_frames(host.outside, "eth0", [frame(to, ROUTER, LOAD, kind)] * times)
    time.sleep(0.3)
    after = counted(host, guest).since(before)
    assert after is not None
    return after


def test_frames_that_are_flooded_to_a_guest_are_not_its_usage(running: Host, guest: Guest) -> None:
    amounts = flood(running, guest)
    assert amounts.flood_bytes == 100 * 1014
    assert amounts.in_bytes < 2000


@pytest.mark.parametrize("to", [BROADCAST, "01:00:5e:00:00:fb", "33:33:00:00:00:fb"])
def test_group_frames_are_usage_of_each_guest(running: Host, guest: Guest, to: str) -> None:
    assert flood(running, guest, to).in_bytes >= 100 * 1014


def test_group_frames_without_end_are_flood(running: Host, guest: Guest) -> None:
    amounts = flood(running, guest, BROADCAST, times=5000)
    assert amounts.in_bytes < 1_200_000
    assert amounts.in_bytes + amounts.flood_bytes >= 5000 * 1014


def test_a_guest_that_uses_another_mac_pays_for_all_group_frames(running: Host, guest: Guest) -> None:
    send_frames(guest.namespace, "eth0", [frame(BROADCAST, STRANGER, LOAD)])
    amounts = flood(running, guest, BROADCAST, times=5000)
    assert (amounts.flood_bytes, amounts.in_bytes >= 5000 * 1014) == (0, True)


def test_a_guest_that_sends_from_another_mac_pays_for_frames_to_it(running: Host, guest: Guest) -> None:
    send_frames(guest.namespace, "eth0", [frame(BROADCAST, STRANGER, LOAD)])
    amounts = flood(running, guest)
    assert (amounts.flood_bytes, amounts.in_bytes >= 100 * 1014) == (0, True)


def lies(mac: str) -> dict[str, bytes]:
    """Frames from the guest's own MAC that tell others of another MAC."""
    me, other = mac_bytes(mac), mac_bytes(STRANGER)

    def advertise(options: bytes, *, padded: bool = False) -> bytes:
        return neighbour_advertisement(mac, "fd50::77", ROUTER, "fd50::2", options, padded=padded)

    def discover(chaddr: bytes) -> bytes:
        return udp(bytes([1, 1, 6, 0]) + bytes(24) + chaddr + bytes(10 + 64 + 128), 68, 67)

    def broadcast(packet: bytes) -> bytes:
        return frame(BROADCAST, mac, packet, 0x0800)

    def solicit(options: bytes) -> bytes:
        return router_solicitation(mac, "fd50::77", ROUTER, "ff02::2", options)

    return {
        "by ARP": arp_reply(mac, STRANGER, "10.50.0.77", ROUTER, "10.50.0.2"),
        "by a neighbour advertisement": advertise(bytes([2, 1]) + other),
        "behind an unknown option": advertise(bytes([253, 1]) + bytes(6) + bytes([2, 1]) + other),
        "behind a nonce": advertise(bytes([14, 1]) + bytes(6) + bytes([2, 1]) + other),
        "behind a long nonce": advertise(bytes([14, 2]) + bytes(14) + bytes([2, 1]) + other),
        "behind the truth": advertise(bytes([1, 1]) + me + bytes([2, 1]) + other),
        "behind a header": advertise(bytes([2, 1]) + me, padded=True),
        "in a solicitation": solicit(bytes([1, 1]) + other),
        "in a solicitation behind the truth": solicit(bytes([1, 1]) + me + bytes([1, 1]) + other),
        "truth in a solicitation": solicit(bytes([1, 1]) + me),
        "in a VLAN": frame(ROUTER, mac, b"\0\x05\x08\x06" + LOAD, 0x8100),
        "by DHCP": broadcast(ip4("0.0.0.0", "255.255.255.255", discover(other))),
        "by DHCP in fragments": broadcast(fragments("0.0.0.0", "255.255.255.255", discover(other), 32)[0]),
        "by DHCP in a padded fragment": broadcast(
            fragments("0.0.0.0", "255.255.255.255", discover(other), 8)[0] + b"\xff" * 60
        ),
        "truth": advertise(bytes([2, 1]) + me),
        "truth of a server that is asked from port 67": broadcast(
            ip4("10.50.0.77", "10.50.0.2", udp(bytes(500), 53, 67))
        ),
        "truth of a STUN server that is asked from port 67": broadcast(
            ip4("10.50.0.77", "10.50.0.2", udp(b"\x01\x01\x00\x2c" + bytes(60), 3478, 67))
        ),
        "truth of it in fragments": broadcast(fragments("10.50.0.77", "10.50.0.2", udp(bytes(2000), 53, 67), 1480)[0]),
        "truth by DHCP": broadcast(ip4("0.0.0.0", "255.255.255.255", discover(me))),
    }


@pytest.mark.parametrize("lie", [*lies(STRANGER)])
def test_a_guest_that_tells_others_of_another_mac_pays_for_frames_to_it(running: Host, guest: Guest, lie: str) -> None:
    send_frames(guest.namespace, "eth0", [lies(guest.cards[0].mac)[lie]])
    amounts = flood(running, guest)
    assert (amounts.flood_bytes == 0) is not lie.startswith("truth")


def test_a_blocked_guest_that_tells_its_allowed_networks_of_another_mac_pays_after_its_release(
    running: Host, guest: Guest
) -> None:
    running.xenbw("addvm", "web1", "--limit", "1TB", "--allow", "10.50.0.2")
    running.xenbw("block", "web1")
    send_frames(guest.namespace, "eth0", [lies(guest.cards[0].mac)["by ARP"]])
    running.xenbw("lift", "web1")
    assert guest.reaches("10.50.0.2")
    assert flood(running, guest).flood_bytes == 0


def test_only_traffic_that_passes_is_usage(running: Host) -> None:
    guest = weigh(running.start("web1"))
    guest.send(200_000)
    guest.receive(100_000)
    guest.send(50_000, to="dom0", version=4)
    running.quiet(guest)
    assert until(lambda: counted(running, guest) == Amounts(*weight(guest))), (counted(running, guest), weight(guest))


def test_with_the_kernel_meter_a_blocked_guest_is_sealed_without_a_gap() -> None:
    with Host('[meter]\nsource = "kernel"\n') as host:
        host.start_daemon()
        guest = host.start("web1")
        host.xenbw("block", "web1")
        guest.reboot()
        assert not guest.ping("10.50.0.2")
        host.xenbw("lift", "web1")
        assert guest.reaches("10.50.0.2")
        host.ask("commit")
        assert host.ask("status")["meter_gaps"] == 0


@pytest.mark.parametrize("broken", ["flush chain netdev xenbw v9.0.{index}-in", "flush chain netdev xenbw to-guest"])
def test_chains_that_traffic_passed_by_are_repaired_only_after_their_counters_were_restarted(
    host: Host, broken: str
) -> None:
    host.namespace.ip("link add vif9.0 type veth peer name other")
    with host.namespace.entered(), closing(Tables(hand_to_nft)) as tables:
        chains = Chains(tables)
        port = Port(9, 0, socket.if_nametoindex("vif9.0"), "vif9.0")
        chains.keep([port], chains.look())
        chains.counted = {port.key}
        host.run(["nft", *broken.format(index=port.ifindex).split()], check=True)
        # Had they been repaired now, the bytes that passed since the flush would be in no counter.
        chains.keep([port], chains.look())
        assert chains.uncounted([port], chains.look()) == [port]
        chains.restart([port], chains.look())
        chains.keep([port], chains.look())
        assert chains.uncounted([port], chains.look()) == []
        assert chains.look().bound(port)
        assert chains.fresh == {port.key}

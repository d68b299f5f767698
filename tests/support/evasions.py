"""Ways in which a guest may try to get round a block or a meter. To try one more, add it to EVASIONS."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.support.frames import BROADCAST, arp_reply, mac_bytes, neighbour_advertisement
from tests.support.intruder import Intruder
from tests.support.packets import ESP, GRE, ICMP, IPIP, IPV6_IN_IP, echo, fragments, gre, ip4, ip6, udp

_IP6, _VLAN, _QINQ = 0x86DD, 0x8100, 0x88A8  # linux/if_ether.h
_OUTSIDE6, _ALL_NODES = "fd50::2", "33:33:00:00:00:01"
_MANY = 300

Act = Callable[[Intruder], None]


@dataclass(frozen=True)
class Evasion:
    """What a guest does. arrives: where it does when nobody is in its way: with one of the others, "anywhere", or
    "nowhere", since any bridge drops it. routed: whether it makes sense without a bridge, too."""

    act: Act
    arrives: str = "anywhere"
    routed: bool = False


def _frames(make: Callable[[Intruder], Iterable[bytes]]) -> Act:
    return lambda me: me.send(make(me))


def _packets(make: Callable[[Intruder], Iterable[bytes]]) -> Act:
    """IPv4 packets to the host outside."""
    return lambda me: me.send([me.frame(packet) for packet in make(me)])


def _from(source: Callable[[Intruder], str]) -> Evasion:
    """Datagrams with another IPv4 source address."""
    return Evasion(_packets(lambda me: [ip4(source(me), me.addresses["outside"], udp(me.mark))]), routed=True)


def _as(sender: Callable[[Intruder], str], arrives: str = "anywhere") -> Evasion:
    """Datagrams from another MAC."""

    def make(me: Intruder) -> list[bytes]:
        packet = ip4(me.ip, me.addresses["outside"], udp(me.mark))
        return [me.frame(packet, to=to, sender=sender(me)) for to in ("outside", "neighbour", "dom0", "everybody")]

    return Evasion(_frames(make), arrives)


def _tunnel(protocol: int, wrap: Callable[[bytes], bytes] = bytes) -> Evasion:
    def make(me: Intruder) -> list[bytes]:
        inner = ip4("192.0.2.1", "192.0.2.2", udp(me.mark))
        return [ip4(me.ip, me.addresses["outside"], wrap(inner), protocol)]

    return Evasion(_packets(make), "outside", routed=True)


def _kind(kind: int, head: bytes = b"") -> Evasion:
    """Frames that IP firewalls ignore."""

    def make(me: Intruder) -> list[bytes]:
        packet = ip4(me.ip, me.addresses["outside"], udp(me.mark))
        return [me.frame(head + packet, kind, to=to) for to in ("outside", "neighbour", "dom0", "everybody")]

    return Evasion(_frames(make))


def _to(mac: str, kind: int = 0x88B5, arrives: str = "anywhere", head: bytes = b"") -> Evasion:
    return Evasion(_frames(lambda me: [me.frame(head + me.mark, kind, to=mac)]), arrives)


def _claim(whose: str) -> Evasion:
    """ARP replies to everybody that claim somebody else's address."""

    def make(me: Intruder) -> list[bytes]:
        return [arp_reply(me.mac, me.mac, me.addresses[whose], BROADCAST, me.addresses[whose]) + me.mark]

    return Evasion(_frames(make))


def _arp_flood(me: Intruder) -> list[bytes]:
    dice = random.Random(1)
    macs = [f"02:00:00:{dice.randrange(256):02x}:{dice.randrange(256):02x}:01" for _ in range(_MANY)]
    return [arp_reply(mac, mac, f"10.50.1.{at % 256}", BROADCAST, me.ip) + me.mark for at, mac in enumerate(macs)]


def _link_local(mac: str) -> str:
    """The link-local address of a network card (RFC 4291, appendix A)."""
    first, *others = mac_bytes(mac)
    return "fe80::" + bytes([first ^ 2, *others[:2], 0xFF, 0xFE, *others[2:]]).hex(":", 2).replace(":0", ":")


def _solicit(me: Intruder) -> list[bytes]:
    advertise = neighbour_advertisement(me.mac, "fd50::77", _ALL_NODES, "ff02::1", bytes([2, 1]) + mac_bytes(me.mac))
    router = ip6(_link_local(me.mac), "ff02::2", bytes([133, 0, 0, 0, 0, 0, 0, 0]) + me.mark, 58)
    return [advertise + me.mark, me.frame(router, _IP6, to="33:33:00:00:00:02")]


def _own_ipv6(me: Intruder) -> None:
    me.guest.namespace.ip("addr add fd50::666/64 dev eth0")
    me.talk(_OUTSIDE6)
    me.guest.namespace.ip("addr del fd50::666/64 dev eth0")
    me.send([me.frame(ip6("fd50::666", _OUTSIDE6, udp(me.mark)), _IP6)])


def _mapped(me: Intruder) -> list[bytes]:
    packet = ip6(f"::ffff:{me.ip}", f"::ffff:{me.addresses['outside']}", udp(me.mark))
    return [me.frame(packet, _IP6)]


def _other_address(me: Intruder) -> None:
    # Keep this order: a card that loses its first address of a network also loses the others of that network.
    me.guest.namespace.ip(f"addr del {me.ip}/24 dev eth0", "addr add 10.50.0.99/24 dev eth0")
    me.talk(me.addresses["outside"])
    me.guest.namespace.ip("addr del 10.50.0.99/24 dev eth0", f"addr add {me.ip}/24 dev eth0")


def _change_mac(me: Intruder) -> None:
    me.guest.namespace.ip(f"link set eth0 address {me.alias}")
    me.talk(me.addresses["outside"])
    me.send([me.frame(ip4(me.ip, me.addresses["outside"], udp(me.mark)), sender=me.alias)])
    me.guest.namespace.ip(f"link set eth0 address {me.mac}")


def _down_and_up(me: Intruder) -> None:
    me.guest.namespace.ip("link set eth0 down", "link set eth0 up")
    me.await_link()
    me.talk(me.addresses["outside"])
    me.send([me.frame(ip4(me.ip, me.addresses["outside"], udp(me.mark)))])


def _by_proxy(me: Intruder) -> None:
    with me.neighbour.namespace.entered():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    me.send([me.frame(ip4(me.ip, me.addresses["outside"], udp(me.mark)), to="neighbour")])


def _jumbo(me: Intruder) -> None:
    me.guest.namespace.ip("link set eth0 mtu 9000")
    packet = ip4(me.ip, me.addresses["dom0"], udp(me.mark + bytes(8000)))
    me.send([me.frame(packet, to="dom0")])


def _discover(me: Intruder) -> list[bytes]:
    """DHCP's first message (RFC 2131)."""
    ask = bytes([1, 1, 6, 0]) + bytes(24) + mac_bytes(me.mac) + bytes(202) + bytes.fromhex("63825363350101ff")
    return [me.frame(ip4("0.0.0.0", "255.255.255.255", udp(ask + me.mark, 68, 67)), to="everybody")]


def _announce(me: Intruder) -> list[bytes]:
    return [me.frame(ip4(me.ip, "224.0.0.251", udp(me.mark, 5353, 5353)), to="01:00:5e:00:00:fb")]


def _runts(me: Intruder) -> list[bytes]:
    return [me.frame(me.mark[:length], 0x88B5, to=to) + me.mark for length in range(2) for to in ("outside", "dom0")]


_SOURCE_ROUTE = bytes([131, 7, 4, 10, 50, 0, 1, 0])  # RFC 791: loose source and record route, by dom0
_RECORD = bytes([7, 7, 4, 0, 0, 0, 0, 0])
_LABEL = bytes.fromhex("00064140")  # MPLS: label 100, the last of its stack
_VLAN_5 = bytes.fromhex("00050800")
_BPDU = bytes.fromhex("002642420300") + bytes(29)  # IEEE 802.1D: length, LLC, a configuration message
_PPP = bytes.fromhex("110000010040") + bytes.fromhex("0021")  # RFC 2516: session 1; PPP: IPv4

EVASIONS: dict[str, Evasion] = {
    # other addresses
    "another address of the subnet": _from(lambda me: "10.50.0.98"),
    "another address, by the guest's own kernel": Evasion(_other_address),
    "a neighbour's address": _from(lambda me: me.addresses["neighbour"]),
    "dom0's address": _from(lambda me: me.addresses["dom0"]),
    "an address of the world": _from(lambda me: "203.0.113.9"),
    "no address": _from(lambda me: "0.0.0.0"),
    "another MAC, by the guest's own kernel": Evasion(_change_mac),
    "a neighbour's MAC": _as(lambda me: me.macs["neighbour"]),
    "dom0's MAC": _as(lambda me: me.macs["dom0"]),
    "the MAC of the host outside": _as(lambda me: me.macs["outside"]),
    "a MAC of many": _as(lambda me: "01:00:5e:00:00:01", "nowhere"),
    # ARP and IPv6
    "ARP: the gateway is here": _claim("dom0"),
    "ARP: a neighbour is here": _claim("neighbour"),
    "ARP flood": Evasion(_frames(_arp_flood)),
    "IPv6 by a link-local address": Evasion(_frames(_solicit), routed=True),
    "IPv6 by an address of its own choice": Evasion(_own_ipv6),
    "IPv4-mapped IPv6": Evasion(_frames(_mapped)),
    # other kinds of frames
    "a kind nobody knows": _kind(0x1234),
    "802.1Q": _kind(_VLAN, _VLAN_5),
    "QinQ": _kind(_QINQ, bytes.fromhex("00078100") + _VLAN_5),
    "MPLS": _kind(0x8847, _LABEL),
    "PPPoE discovery": _kind(0x8863, bytes.fromhex("110900000000")),
    "PPPoE session": _kind(0x8864, _PPP),
    "802.3 with a length": _kind(0x0100, bytes.fromhex("aaaa03000000")),
    "runts": Evasion(_frames(_runts)),
    "jumbo frames": Evasion(_jumbo, "dom0"),
    # broadcast and multicast
    "STP": _to("01:80:c2:00:00:00", 0x0026, head=_BPDU[2:]),
    "pause frames": _to("01:80:c2:00:00:01", 0x8808, "nowhere"),
    "LLDP": _to("01:80:c2:00:00:0e", 0x88CC, "dom0"),
    "the last of the link-local groups": _to("01:80:c2:00:00:0f"),
    "multicast DNS": Evasion(
        _frames(lambda me: [me.frame(ip4(me.ip, "224.0.0.251", udp(me.mark)), to="01:00:5e:00:00:fb")])
    ),
    "broadcast": _to(BROADCAST),
    "a DHCP discover": Evasion(_frames(_discover), routed=True),
    # unusual IPv4 packets
    "fragments": Evasion(
        _packets(lambda me: fragments(me.ip, me.addresses["outside"], udp(me.mark + bytes(64)), 40)), routed=True
    ),
    "fragments that are none": Evasion(
        _packets(lambda me: [ip4(me.ip, me.addresses["outside"], me.mark, place=0x1FFF)]), routed=True
    ),
    "source routes": Evasion(
        _packets(lambda me: [ip4(me.ip, me.addresses["outside"], udp(me.mark), options=_SOURCE_ROUTE)])
    ),
    "IP options": Evasion(
        _packets(lambda me: [ip4(me.ip, me.addresses["outside"], udp(me.mark), options=_RECORD)]), routed=True
    ),
    "broken checksums": Evasion(_packets(lambda me: [ip4(me.ip, me.addresses["outside"], udp(me.mark), broken=True)])),
    "a name service's port": Evasion(
        _packets(lambda me: [ip4(me.ip, me.addresses["outside"], udp(me.mark, 53, 53))]), routed=True
    ),
    # tunnels and helpers
    "ICMP tunnel": Evasion(
        _packets(lambda me: [ip4(me.ip, me.addresses["outside"], echo(me.mark), ICMP)]), "outside", routed=True
    ),
    "GRE": _tunnel(GRE, gre),
    "IP in IP": _tunnel(IPIP),
    "IPv6 in IPv4": _tunnel(IPV6_IN_IP, lambda packet: ip6("fd66::1", "fd66::2", packet)),
    "ESP": _tunnel(ESP),
    "by way of a neighbour": Evasion(_by_proxy, "outside"),
    # the card
    "interface down and up": Evasion(_down_and_up, "outside"),
}
ROUTED = {name: evasion for name, evasion in EVASIONS.items() if evasion.routed}

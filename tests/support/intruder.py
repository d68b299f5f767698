"""A guest as an attacker: the frames that it sends, and the places where they arrive."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable
from typing import Self

from tests.support.dom0 import BRIDGE, DOM0_ADDRESSES, OUTSIDE_ADDRESSES
from tests.support.ears import Ear
from tests.support.frames import BROADCAST, frame
from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.netns import Namespace
from tests.support.pace import until, within

# The ethertypes that dom0 itself may accept from a guest, in linux/if_ether.h: IPv4, ARP, IPv6, two VLAN tags, MPLS,
# PPPoE's two, one for experiments, LLDP, and frames with a length instead of a type (ETH_P_802_2).
KINDS = (0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8, 0x8847, 0x8863, 0x8864, 0x88B5, 0x88CC, 0x0004)
_TIMES = 5  # how often each frame is sent


class Intruder:
    """A guest, and the ears of those it may not reach: the host "outside", its "neighbour" and "dom0".

    mark: bytes that all it sends by hand has in it, by which it is known whatever address it gives. alias: the MAC that
    it takes when it changes its own.
    """

    def __init__(self, host: Host, guest: Guest, neighbour: Guest) -> None:
        self.host, self.guest, self.neighbour = host, guest, neighbour
        self.mark = f"<mark of {guest.name}>".encode()
        self.mac, self.ip = guest.cards[0].mac, guest.address()
        self.alias = self.mac.replace("00:16:3e", "02:16:3e")
        self.addresses = {
            "outside": OUTSIDE_ADDRESSES[4],
            "neighbour": neighbour.address(),
            "dom0": DOM0_ADDRESSES[4],
        }
        self.routed = guest.cards[0].script != "vif-bridge"
        gateway = mac_of(host.namespace, guest.interface)
        self.macs = {
            "outside": gateway if self.routed else mac_of(host.outside, "eth0"),
            "neighbour": gateway if self.routed else neighbour.cards[0].mac,
            "dom0": gateway if self.routed else mac_of(host.namespace, BRIDGE),
            "everybody": BROADCAST,
        }
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Self:
        listen = self._exit.enter_context
        self._ears = {
            "outside": [listen(Ear(self.host.outside))],
            "neighbour": [listen(Ear(self.neighbour.namespace))],
            "dom0": [
                listen(Ear(self.host.namespace, BRIDGE)),
                *(listen(Ear(self.host.namespace, None, kind)) for kind in KINDS),
            ],
        }
        self._own = listen(Ear(self.guest.namespace))
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    # sending

    def frame(self, payload: bytes, kind: int = 0x0800, *, to: str = "outside", sender: str | None = None) -> bytes:
        """A frame to one of the others, or to a MAC; optionally from another sender's MAC."""
        return frame(self.macs.get(to, to), sender or self.mac, payload, kind)

    def send(self, frames: Iterable[bytes], card: str = "eth0") -> None:
        """Send frames on a card unchanged, several times; a frame that the card refuses, such as without a carrier, is
        skipped."""
        with self.guest.namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((card, 0))
            for one in list(frames) * _TIMES:
                with contextlib.suppress(OSError):
                    sender.send(one)

    def talk(self, address: str) -> None:
        """Send datagrams as programs do, with the address, MAC and route that the guest has."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.guest.namespace.entered(), socket.socket(family, socket.SOCK_DGRAM) as sender:
            for _ in range(_TIMES):
                with contextlib.suppress(OSError):
                    sender.sendto(self.mark, (address, 9))

    def await_link(self) -> None:
        """Wait until the card's link lets frames pass, unless dom0 keeps it down. The kernel looks at new links at most
        once a second (linux net/core/link_watch.c)."""
        interface = self.guest.interface
        if self.host.run(["ip", "link", "show", "up", "dev", interface]).stdout:
            within(lambda: _open(self.host, interface), 3)

    # what arrives

    def reached(self) -> dict[str, int]:
        """How many frames of the guest each place has heard since the last call; places that heard none are left
        out."""
        found = {}
        for who, ears in self._ears.items():
            count = sum(self._mine(one.frame) for ear in ears for one in ear.heard())
            if count:
                found[who] = count
        return found

    def heard(self) -> int:
        """How many frames have come to the guest's own card since the last call, whatever their destination."""
        return len(self._own.heard())

    def address(self) -> None:
        """Let the others send to the guest, to its alias, to an unknown MAC, to broadcast and multicast and to each
        other."""
        for place, device, mac in (
            (self.host.outside, "eth0", mac_of(self.host.outside, "eth0")),
            (self.neighbour.namespace, "eth0", self.neighbour.cards[0].mac),
            (self.host.namespace, self.guest.interface if self.routed else BRIDGE, self.macs["dom0"]),
        ):
            targets = (self.mac, self.alias, "02:00:00:99:99:99", BROADCAST, "01:00:5e:00:00:fb", "33:33:00:00:00:fb")
            frames = [frame(to, mac, b"hello", 0x88B5) for to in targets]
            with place.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
                sender.bind((device, 0))
                for one in frames:
                    with contextlib.suppress(OSError):  # dom0's own end is down
                        sender.send(one)
        for place in (self.host.outside, self.neighbour.namespace, self.host.namespace):
            with place.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for address in (self.ip, self.addresses["neighbour"]):
                    with contextlib.suppress(OSError):  # refused by a null route
                        sender.sendto(b"hello", (address, 9))

    def _mine(self, data: bytes) -> bool:
        return self.mark in data or data[6:12].hex(":") in (self.mac, self.alias)


def mac_of(place: Namespace, device: str) -> str:
    """The present MAC of a device."""
    (found,) = json.loads(place.run(["ip", "-j", "link", "show", device], check=True).stdout)
    return str(found["address"])


def force_up(host: Host, guest: Guest) -> None:
    """Set the guest's vif up in dom0 and take the drop by tc from it, and wait until its link lets frames pass."""
    host.raise_links(guest)
    assert until(lambda: all(_open(host, interface) for interface in guest.interfaces.values()))


def pass_large_frames(host: Host) -> None:
    """Raise the MTU wherever the guests' frames pass."""
    host.outside.ip("link set eth0 mtu 9000")
    vifs = [interface for guest in host.guests for interface in guest.interfaces.values()]
    host.namespace.ip("link set outside mtu 9000", *(f"link set {interface} mtu 9000" for interface in vifs))
    for guest in host.guests:
        guest.namespace.ip("link set eth0 mtu 9000")


def _open(host: Host, interface: str) -> bool:
    shown = host.namespace.run(["ip", "-j", "-d", "link", "show", interface], check=True).stdout
    (link,) = json.loads(shown)
    port = link.get("linkinfo", {}).get("info_slave_data", {})
    return (link["operstate"], port.get("state", "forwarding")) == ("UP", "forwarding")

"""Frames that no well-behaved guest sends."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from tests.support.netns import Namespace

BROADCAST = "ff:ff:ff:ff:ff:ff"


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def frame(to: str, sender: str, payload: bytes, kind: int = 0x88B5) -> bytes:
    """An Ethernet frame; its default ethertype is one for local experiments."""
    return mac_bytes(to) + mac_bytes(sender) + kind.to_bytes(2, "big") + payload


def arp_reply(sender: str, claimed: str, ip: str, to: str, to_ip: str) -> bytes:
    """A frame from `sender` that claims: `ip` is at `claimed`."""
    head = bytes.fromhex("0001080006040002")
    body = mac_bytes(claimed) + socket.inet_aton(ip) + mac_bytes(to) + socket.inet_aton(to_ip)
    return frame(to, sender, head + body, 0x0806)


def neighbour_advertisement(
    sender: str, ip: str, to: str, to_ip: str, options: bytes, *, padded: bool = False
) -> bytes:
    """A frame from `sender` with an IPv6 neighbour advertisement for `ip` and these options; padded: behind a header of
    options for the destination that has none."""
    body = bytes([136, 0, 0, 0, 0x60, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, ip) + options
    return _icmp6(sender, ip, to, to_ip, body, bytes([58, 0, 1, 4, 0, 0, 0, 0]) if padded else b"")


def router_solicitation(sender: str, ip: str, to: str, to_ip: str, options: bytes) -> bytes:
    """A frame from `sender` with an IPv6 router solicitation and these options."""
    return _icmp6(sender, ip, to, to_ip, bytes([133, 0, 0, 0, 0, 0, 0, 0]) + options)


def _icmp6(sender: str, ip: str, to: str, to_ip: str, body: bytes, before: bytes = b"") -> bytes:
    """before: an IPv6 header for the destination's options, ahead of the ICMP message `body`."""
    addresses = socket.inet_pton(socket.AF_INET6, ip) + socket.inet_pton(socket.AF_INET6, to_ip)
    pseudo = addresses + len(body).to_bytes(4, "big") + bytes([0, 0, 0, 58])
    payload = before + body[:2] + _checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    head = bytes([0x60, 0, 0, 0]) + len(payload).to_bytes(2, "big") + bytes([60 if before else 58, 255])
    return frame(to, sender, head + addresses + payload, 0x86DD)


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def send_frames(place: Namespace, device: str, frames: Sequence[bytes]) -> None:
    """Send frames on a device unchanged."""
    with place.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        for one in frames:
            sender.send(one)

"""IP packets that no well-behaved guest sends, as bytes to be put into a frame."""

from __future__ import annotations

import socket
import struct

UDP, IPIP, IPV6_IN_IP, GRE, ESP, ICMP = 17, 4, 41, 47, 50, 1  # linux/in.h
_DISCARD = 9  # RFC 863
_MORE = 0x2000  # linux net/ip.h, IP_MF


def udp(payload: bytes, sender: int = _DISCARD, port: int = _DISCARD) -> bytes:
    """A UDP datagram without a checksum, as IPv4 allows."""
    return struct.pack(">HHHH", sender, port, 8 + len(payload), 0) + payload


def echo(payload: bytes) -> bytes:
    """An ICMP echo request."""
    head = struct.pack(">BBHHH", 8, 0, 0, 1, 1)
    return head[:2] + struct.pack(">H", _checksum(head + payload)) + head[4:] + payload


def gre(packet: bytes) -> bytes:
    """An IPv4 packet behind a GRE header (RFC 2784)."""
    return struct.pack(">HH", 0, 0x0800) + packet


def ip4(
    source: str,
    target: str,
    payload: bytes,
    protocol: int = UDP,
    *,
    options: bytes = b"",
    place: int = 0,
    broken: bool = False,
) -> bytes:
    """An IPv4 packet. options: a whole number of 4 bytes. place: flags and offset, as in its fragment field. broken:
    with a wrong checksum."""
    words = 5 + len(options) // 4
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, 4 * words + len(payload), 1, place, 64, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(target) + options
    checksum = _checksum(head) ^ (0x5555 if broken else 0)
    return head[:10] + struct.pack(">H", checksum) + head[12:] + payload


def fragments(source: str, target: str, datagram: bytes, size: int = 8) -> list[bytes]:
    """A UDP datagram in IPv4 fragments. size: bytes in each, a multiple of 8."""
    parts = [(at, datagram[at : at + size]) for at in range(0, len(datagram), size)]
    last = parts[-1][0]
    return [ip4(source, target, part, place=(0 if at == last else _MORE) | at // 8) for at, part in parts]


def ip6(source: str, target: str, payload: bytes, header: int = UDP) -> bytes:
    """An IPv6 packet; a UDP datagram in it gets the checksum it must have."""
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    if header == UDP:
        pseudo = addresses + struct.pack(">II", len(payload), header)
        payload = payload[:6] + struct.pack(">H", _checksum(pseudo + payload) or 0xFFFF) + payload[8:]
    return struct.pack(">IHBB", 0x60000000, len(payload), header, 64) + addresses + payload


def _checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

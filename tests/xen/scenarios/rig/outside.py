"""The host outside, behind the bridge, and its capture, which has run since before the first guest."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from rig.guest import Guest
from rig.pace import until

_CAPTURE = Path("/run/rig/outside.pcap")
_ADDRESS, _DISCARD = "10.77.0.2", 9
_FILE_HEADER, _FRAME_HEADER = 24, struct.Struct("=IIII")
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"


@dataclass(frozen=True)
class Frame:
    """A frame that arrived: when (seconds since 1970), from which MAC, and how it begins."""

    at: float
    mac: str
    head: bytes

    @property
    def source(self) -> str | None:
        """The source IP address."""
        if self.head[12:14] == _IPV4:
            return str(IPv4Address(self.head[26:30]))
        if self.head[12:14] == _IPV6:
            return str(IPv6Address(self.head[22:38]))
        return None

    def __repr__(self) -> str:
        return f"{self.mac} at {self.at:.3f}: {self.head[12:54].hex()}"


def mark() -> int:
    """The present place in the capture."""
    return _CAPTURE.stat().st_size


def frames(since: int, guest: Guest) -> list[Frame]:
    """All frames from a guest since a mark, also those that every Linux sends by itself."""
    _await_capture(since)
    macs = {card.mac for card in guest.cards}
    data = _CAPTURE.read_bytes()[max(since, _FILE_HEADER) :]
    return [frame for frame in _parse(data) if frame.mac in macs]


def _await_capture(since: int) -> None:
    """Wait until the capture has a packet that dom0 sends now, and so all packets before it."""
    token = f"now {time.monotonic_ns()}".encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(token, (_ADDRESS, _DISCARD))
    assert until(lambda: token in _CAPTURE.read_bytes()[since:]), "the capture outside does not go on"


def packets(since: int, guest: Guest) -> list[Frame]:
    """The packets from a guest's addresses since a mark."""
    addresses = {ip for card in guest.cards for ip in card.ips}
    return [frame for frame in frames(since, guest) if frame.source in addresses]


def _parse(data: bytes) -> Iterator[Frame]:
    at = 0
    while at + _FRAME_HEADER.size <= len(data):
        seconds, micros, kept, _ = _FRAME_HEADER.unpack_from(data, at)
        head = data[at + _FRAME_HEADER.size : at + _FRAME_HEADER.size + kept]
        if len(head) < kept:
            return  # still being written
        at += _FRAME_HEADER.size + kept
        yield Frame(seconds + micros / 1e6, head[6:12].hex(":"), head)


def ping(address: str, count: int = 3) -> bool:
    """Whether an address answers the host outside."""
    argv = ["ip", "netns", "exec", "outside", "ping", "-q", "-n", "-c", str(count), "-i", "0.3", "-W", "1", address]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0

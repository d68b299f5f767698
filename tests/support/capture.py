"""Capture the IP packets on a wire with the source addresses that they claim."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

from tests.support.netns import Namespace

_ETH_P_ALL = 0x0003
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"


class Capture:
    """Captures on one interface in a namespace, from `with` on."""

    def __init__(self, namespace: Namespace, interface: str = "eth0") -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
            self._socket.bind((interface, 0))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def sources(self) -> list[IPv4Address | IPv6Address]:
        """The source addresses of the IP packets captured since the last call."""
        found: list[IPv4Address | IPv6Address] = []
        while True:
            try:
                frame, (_, _, kind, *_) = self._socket.recvfrom(65536)
            except BlockingIOError:
                return found
            if kind == socket.PACKET_OUTGOING:
                continue
            if frame[12:14] == _IPV4:
                found.append(ip_address(frame[26:30]))
            elif frame[12:14] == _IPV6:
                found.append(ip_address(frame[22:38]))

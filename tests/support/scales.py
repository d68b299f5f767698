"""A capture that adds up the bytes that pass a guest's card."""

from __future__ import annotations

import socket
from typing import Self

from tests.support.netns import Namespace
from xenbw.model import Counters

_ETH_HLEN = 14  # linux/if_ether.h
_ETH_P_ALL = 3  # linux/if_ether.h
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_ROOM = 64 << 20


class Scales:
    """Adds up the bytes that pass a guest's card from now on, as netback counts them: bytes from the guest without
    their Ethernet headers."""

    def __init__(self, place: Namespace, device: str = "eth0") -> None:
        self._place, self._device = place, device

    def __enter__(self) -> Self:
        with self._place.entered():
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_ETH_P_ALL)
            )
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
            self._socket.bind((self._device, _ETH_P_ALL))
        self._total = Counters(0, 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def total(self) -> Counters:
        """The bytes that have passed; it works even after the card has gone."""
        while True:
            try:
                data, (_, _, kind, *_) = self._socket.recvfrom(1 << 17)
            except BlockingIOError:
                break
            except OSError:
                continue  # reported once, before the captured frames: the card is down, or gone
            if kind == socket.PACKET_OUTGOING:
                self._total = self._total.plus(Counters(0, len(data) - _ETH_HLEN))
            else:
                self._total = self._total.plus(Counters(len(data), 0))
        return self._total

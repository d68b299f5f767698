"""Capture whole frames, with the time of their arrival, at places that blocked guests must not reach."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from tests.support.netns import Namespace

# linux/if_packet.h, asm-generic/socket.h; _TIMESTAMP is SO_TIMESTAMPNS_OLD, which gives a struct timespec.
_SOL_PACKET, _ADD_MEMBERSHIP, _PROMISCUOUS = 263, 1, 1
_TIMESTAMP, _RCVBUFFORCE = 35, 33
_EVERY_KIND = 3  # linux/if_ether.h, ETH_P_ALL
_TIMESPEC = struct.Struct("=qq")
_ROOM = 32 << 20


class Heard(NamedTuple):
    """A frame, and when it came (seconds, as time.time() counts them)."""

    frame: bytes
    at: float


class Ear:
    """Captures from now on, in a namespace, all frames that come to one interface, whatever their destination.

    With a kind (an ethertype) instead of an interface, it captures the frames of that kind that the machine itself
    accepts on any interface, after firewalls and bridges; on an interface it captures all frames before these.
    """

    def __init__(self, place: Namespace, interface: str | None = "eth0", kind: int = _EVERY_KIND) -> None:
        with place.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(kind))
            self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _ROOM)
            self._socket.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
            if interface is not None:
                self._socket.bind((interface, kind))
                wanted = struct.pack("=iHH8s", socket.if_nametoindex(interface), _PROMISCUOUS, 0, b"")
                self._socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, wanted)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def heard(self) -> list[Heard]:
        """The frames since the last call."""
        return [one for one, (_, _, kind, *_) in _taken(self._socket) if kind != socket.PACKET_OUTGOING]


class Door:
    """Listens on a UDP port of a machine from now on: datagrams that arrive here have passed the machine's firewall."""

    def __init__(self, place: Namespace, port: int) -> None:
        with place.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, _TIMESTAMP, 1)
        self._socket.bind(("", port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def heard(self) -> list[Heard]:
        """The datagrams since the last call, with the payload as the frame."""
        return [one for one, _ in _taken(self._socket)]


def _taken(ear: socket.socket) -> Iterator[tuple[Heard, Any]]:
    """The frames that wait in a socket, with their origin."""
    while True:
        try:
            frame, notes, _, origin = ear.recvmsg(1 << 17, 64)
        except BlockingIOError:
            return
        except OSError:
            continue  # told once, before what came: the interface is down, or gone
        ((_, _, stamp),) = notes
        seconds, nanoseconds = _TIMESPEC.unpack(stamp)
        yield Heard(frame, seconds + nanoseconds / 1e9), origin

"""Send small UDP packets as fast as one core can: the kernel takes them from a ring that it shares with this
process."""

from __future__ import annotations

import mmap
import socket
import struct
from typing import Self

from tests.support.frames import frame
from tests.support.netns import Namespace

# linux/if_packet.h
_SOL_PACKET = 263
_PACKET_VERSION, _PACKET_TX_RING = 10, 13
_TPACKET_V2 = 1
_SEND_REQUEST = 1  # TP_STATUS_SEND_REQUEST
_HEADER = struct.Struct("=IIIHHIIHHI")  # struct tpacket2_hdr; the packet follows it

_SLOT = 128
_PAGE = mmap.PAGESIZE
_PAGES = 8
_PAYLOAD = 18  # the smallest payload that fills an Ethernet frame

BATCH = _PAGES * _PAGE // _SLOT
"""How many packets one call of `send` sends."""


class Blaster:
    """Sends copies of one frame from a device. `send` returns when the last packet of its batch has left."""

    def __init__(self, place: Namespace, device: str, what: bytes) -> None:
        slot = _HEADER.pack(_SEND_REQUEST, len(what), 0, 0, 0, 0, 0, 0, 0, 0) + what
        self._batch = slot.ljust(_SLOT, b"\0") * BATCH
        with place.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_TX_RING, struct.pack("=IIII", _PAGE, _PAGES, _SLOT, BATCH))
        self._socket.bind((device, 0))
        self._ring = mmap.mmap(self._socket.fileno(), _PAGES * _PAGE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ring.close()
        self._socket.close()

    def send(self) -> None:
        self._ring[:] = self._batch
        self._socket.send(b"")


def udp(to: str, sender: str, address: str, own_address: str) -> bytes:
    """A UDP packet without a checksum, to the discard port (RFC 863), in an Ethernet frame."""
    load = struct.pack(">HHHH", 9, 9, 8 + _PAYLOAD, 0) + bytes(_PAYLOAD)
    ends = socket.inet_aton(own_address) + socket.inet_aton(address)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(load), 0, 0, 64, socket.IPPROTO_UDP, 0) + ends
    return frame(to, sender, head[:10] + _checksum(head) + head[12:] + load, 0x0800)


def _checksum(header: bytes) -> bytes:
    total: int = sum(struct.unpack(">10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return (~total & 0xFFFF).to_bytes(2, "big")

"""Send packets of a known size, and read how many bytes a network card has seen."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from xenbw.doctor.namespace import Place

CARD = "eth0"
_EXPERIMENT = 0x88B5  # IEEE 802: local experimental EtherType 1, which no host reacts to
_HEADER = 14  # ETH_HLEN, linux/if_ether.h
_ECHO = struct.Struct("!BBHHH")
_REQUEST, _REPLY = 8, 0  # RFC 792
# Seconds. Frames arrive in milliseconds, but a host may be busy. IN_VAIN is the wait for frames that should not arrive.
SURELY, IN_VAIN = 5.0, 1.0
_PAUSE = 0.01


class Card(NamedTuple):
    """The bytes that a card has received and sent; sent bytes without Ethernet headers, as dom0 counts them."""

    in_bytes: int
    out_bytes: int

    def since(self, before: Card) -> Card:
        return Card(self.in_bytes - before.in_bytes, self.out_bytes - before.out_bytes)


def card(place: Place) -> Card:
    """The card in that network."""
    text = place.do(lambda: Path("/proc/thread-self/net/dev").read_text(encoding="ascii"))
    (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{CARD}:"))
    fields = [int(field) for field in line.partition(":")[2].split()]
    return Card(fields[0], fields[8] - _HEADER * fields[9])


def listen(place: Place) -> socket.socket:
    """A socket that receives only the frames of `send` on the card in that network: a host's bridge sends other frames
    to every port."""
    return place.do(partial(_open, _EXPERIMENT))


def _open(protocol: int) -> socket.socket:
    stream = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    stream.bind((CARD, protocol))
    return stream


def heard(stream: socket.socket, count: int, limit: float) -> int:
    """Wait for `count` frames until `limit` by time.monotonic(). Returns how many came."""
    got = 0
    while got < count and select.select([stream], [], [], max(0.0, limit - time.monotonic()))[0]:
        stream.recv(65536)
        got += 1
    return got


def send(source: Place, to: str, count: int, size: int) -> None:
    """Send `count` frames of `size` bytes from the card in that network to a MAC. They are not IP, so that no IP
    firewall sees them."""
    with source.do(partial(_open, 0)) as stream:
        own = stream.getsockname()[4]
        header = bytes.fromhex(to.replace(":", "")) + own + struct.pack("!H", _EXPERIMENT)
        for _ in range(count):
            stream.send(header + bytes(size - len(header)))


def ping(source: Place, address: str, count: int = 3) -> int:
    """Send `count` echo requests. Returns how many were answered."""
    with source.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as stream:
        number = os.getpid() & 0xFFFF
        for sequence in range(count):
            stream.sendto(_request(number, sequence), (address, 0))
        answered: set[int] = set()
        limit = time.monotonic() + IN_VAIN
        while len(answered) < count and (remaining := limit - time.monotonic()) > 0:
            stream.settimeout(remaining)
            try:
                packet = stream.recv(65536)
            except TimeoutError:
                break
            kind, _, _, whose, sequence = _ECHO.unpack_from(packet, (packet[0] & 15) * 4)
            if (kind, whose) == (_REPLY, number):
                answered.add(sequence)
    return len(answered)


def _request(number: int, sequence: int) -> bytes:
    # The checksum of RFC 1071: the ones' complement of the sum; there is no data to add.
    total = (_REQUEST << 8) + number + sequence
    total = (total & 0xFFFF) + (total >> 16)
    return _ECHO.pack(_REQUEST, 0, ~total & 0xFFFF, number, sequence)


def until(holds: Callable[[], bool], seconds: float) -> bool:
    """Wait until `holds` returns True, at most `seconds`. Returns whether it did."""
    limit = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > limit:
            return False
        time.sleep(_PAUSE)
    return True

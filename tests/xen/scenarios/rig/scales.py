"""What passes guests' vifs, by a packet socket of dom0's kernel, which has no part in our chains."""

from __future__ import annotations

import socket
import threading
from typing import Self

from rig.guest import Usage

_EVERYTHING, _OUTGOING = 0x0003, 4  # linux/if_ether.h, linux/if_packet.h
_ETHERNET_HEADER = 14
_BUFFER = 64 << 20


class Scales:
    """Weighs frames as dom0 counts them: with Ethernet headers to a guest, without from it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, _BUFFER)  # SO_RCVBUFFORCE (asm-generic/socket.h)
        self._socket.settimeout(0.5)
        self._totals: dict[str, Usage] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._weigh, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()

    def total(self, interface: str) -> Usage:
        """What has passed an interface so far."""
        return self._totals.get(interface, Usage(0, 0))

    def _weigh(self) -> None:
        nothing = bytearray(1)
        while not self._done.is_set():
            try:
                size, (interface, _, kind, *_) = self._socket.recvfrom_into(nothing, 1, socket.MSG_TRUNC)
            except TimeoutError:
                continue
            if interface.startswith("vif"):
                passed = Usage(size, 0) if kind == _OUTGOING else Usage(0, size - _ETHERNET_HEADER)
                self._totals[interface] = self.total(interface) + passed

"""A steady flow of small datagrams, and how many of them arrive."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from typing import Self

from tests.support.netns import Namespace

_PAUSE = 0.001
_UNDERWAY = 0.2  # seconds until what was sent has arrived, on a busy machine too


class Flow:
    """Datagrams from `source` to `address` in `target`, about a thousand a second, as long as it is entered."""

    def __init__(self, source: Namespace, target: Namespace, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with target.entered():
            self._receiver = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        with source.entered():
            self._sender = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._receiver.bind((address, 0))
        self._to = (address, self._receiver.getsockname()[1])
        self._sent = self._arrived = 0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        self._sender.close()
        self._receiver.close()

    def sent(self) -> int:
        return self._sent

    def arrived(self) -> int:
        return self._arrived

    def settled(self) -> int:
        """How many arrived, once those under way have."""
        time.sleep(_UNDERWAY)
        return self._arrived

    def _run(self) -> None:
        while not self._ends.wait(_PAUSE):
            # An earlier datagram's refusal is told at the next one.
            with contextlib.suppress(OSError):
                self._sender.sendto(b"x", self._to)
            self._sent += 1
            while select.select([self._receiver], [], [], 0)[0]:
                self._receiver.recv(64)
                self._arrived += 1

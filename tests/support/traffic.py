"""Real traffic of a known amount between two namespaces."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

from tests.support.netns import Namespace

_DATAGRAM = 1400  # fits with its headers into every MTU used here
_BATCH = 32  # an unread socket holds at least so many


def transfer(source: Namespace, target: Namespace, address: str, size: int, timeout: float) -> int:
    """Send `size` bytes of UDP payload from `source` to `address` in `target`; how many of them arrived.

    All are sent, whether or not anything arrives, as long as the sender knows the way (its own neighbours, routes and
    firewall); `timeout` (seconds) is waited once for something that does not arrive.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with target.entered():
        receiver = socket.socket(family, socket.SOCK_DGRAM)
    with source.entered():
        sender = socket.socket(family, socket.SOCK_DGRAM)
    with receiver, sender:
        receiver.bind((address, 0))
        receiver.settimeout(timeout)
        arrived = 0
        for start in range(0, size, _BATCH * _DATAGRAM):
            batch = min(size - start, _BATCH * _DATAGRAM)
            _send(sender, batch, (address, receiver.getsockname()[1]))
            got = _receive(receiver, batch)
            arrived += got
            if got < batch:
                receiver.settimeout(0)
        return arrived


def _send(sender: socket.socket, size: int, destination: tuple[str, int]) -> None:
    for offset in range(0, size, _DATAGRAM):
        try:
            sender.sendto(bytes(min(size - offset, _DATAGRAM)), destination)
        except OSError:
            return  # the sender's own firewall or routes refuse it, so nothing leaves


def _receive(receiver: socket.socket, expected: int) -> int:
    got = 0
    while got < expected:
        try:
            got += len(receiver.recv(65536))
        except (TimeoutError, BlockingIOError):
            break
    return got


def stream(source: Namespace, target: Namespace, address: str, seconds: float, warm_up: float = 1.5) -> float:
    """Send as much as one TCP connection from `source` to `address` in `target` carries. Returns the bytes per second
    that arrive in so many seconds, after those of the warm-up."""
    server, sender = _ends(source, target, address)
    with server, sender:
        sender.connect(server.getsockname()[:2])
        receiver, _ = server.accept()
        with receiver:
            pump = threading.Thread(target=_pump, args=(sender,), daemon=True)
            pump.start()
            receiver.settimeout(seconds)
            _receive_for(receiver, warm_up)
            begin = time.monotonic()
            got = _receive_for(receiver, seconds)
            taken = time.monotonic() - begin
            sender.shutdown(socket.SHUT_RDWR)
            pump.join()
    return got / taken


def _ends(source: Namespace, target: Namespace, address: str) -> tuple[socket.socket, socket.socket]:
    """A TCP server at `address` in `target`, and a socket in `source` that is not connected yet."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with target.entered():
        server = socket.create_server((address, 0), family=family)
    with source.entered():
        return server, socket.socket(family, socket.SOCK_STREAM)


def _receive_for(receiver: socket.socket, seconds: float) -> int:
    got, limit = 0, time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
        while time.monotonic() < limit:
            got += len(receiver.recv(1 << 20))
    return got


def _pump(sender: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            sender.sendall(bytes(1 << 16))


def push(source: Namespace, target: Namespace, address: str, size: int, timeout: float) -> int:
    """Send so many bytes by one TCP connection from `source` to `address` in `target`. Returns how many arrived before
    none did for `timeout` seconds."""
    server, sender = _ends(source, target, address)
    with server, sender:
        for end in (server, sender):
            end.settimeout(timeout)
        # Closing resets it: bytes that did not arrive are not sent again later.
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        got = 0
        with contextlib.suppress(OSError):
            sender.connect(server.getsockname()[:2])
            receiver, _ = server.accept()
            with receiver:
                receiver.settimeout(timeout)
                sender.setblocking(False)
                left = size
                while got < size:
                    with contextlib.suppress(BlockingIOError):
                        left -= sender.send(bytes(left))
                    got += len(receiver.recv(1 << 20))
        return got

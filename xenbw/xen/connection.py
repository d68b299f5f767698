"""A connection to xenstored on which every wait ends.

pyxs does the protocol. Its Client and Router are left out on purpose: a request waits there for ever when xenstored
hangs, and also when it dies, because the router thread ends without telling who waits. Under a socket with a deadline
pyxs's connection is synchronous and every wait ends.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path

from pyxs._internal import NUL, Op, Packet, next_rq_id
from pyxs.connection import UnixSocketConnection
from pyxs.exceptions import PyXSError

from xenbw.errors import XenbwError
from xenbw.text import decode
from xenbw.xen.wire import owner_of

_SOCKETS = ("/run/xenstored/socket", "/var/run/xenstored/socket")
_DIRECTORY_PART = 22  # xen/include/public/io/xs_wire.h; younger than pyxs


class StoreError(XenbwError):
    """xenstored is not there, went away, gave no answer in time, or refused to answer."""


class _RefusalError(StoreError):
    """xenstored's own word for why it does not answer."""

    def __init__(self, path: str, code: bytes) -> None:
        super().__init__(f"xenstored refuses to tell of {path!r}: {decode(code)}")
        self.code = code


class Connection:
    """To the xenstored that listens at `path`. A deadline is a time.monotonic() value; after a StoreError other than a
    refusal, the connection is closed. Raises StoreError where none listens."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._wire = _Wire(path)
        try:
            self._wire.connect()
        except OSError as error:
            raise StoreError(
                f"{path}: cannot reach xenstored: {error.strerror}", "systemctl status xen.service says more"
            ) from None

    def close(self) -> None:
        """Let go of the connection; closing twice is fine."""
        self._wire.close()

    def read(self, path: str, deadline: float) -> str | None:
        """The value at `path`, None when absent. Raises StoreError."""
        value = self._ask(Op.READ, path, b"", deadline)
        return None if value is None else decode(value)

    def owner(self, path: str, deadline: float) -> int | None:
        """The domain that owns the node at `path`, None when absent. Raises StoreError."""
        permissions = self._ask(Op.GET_PERMS, path, b"", deadline)
        return None if permissions is None else owner_of(permissions)

    def children(self, path: str, deadline: float) -> list[bytes]:
        """The names of what is below `path`; none where there is no such path. Raises StoreError."""
        try:
            listed = self._ask(Op.DIRECTORY, path, b"", deadline) or b""
        except _RefusalError as refusal:
            if refusal.code != b"E2BIG":
                raise
            listed = self._children_in_parts(path, deadline)
        return [name for name in listed.split(NUL) if name]

    def _children_in_parts(self, path: str, deadline: float) -> bytes:
        """What does not fit into one answer; the end has a NUL of its own, and each part the node's generation before
        it (xen docs/misc/xenstore.txt, DIRECTORY_PART)."""
        listed, generation = b"", b""
        while True:
            answer = self._ask(_DIRECTORY_PART, path, b"%d\0" % len(listed), deadline) or NUL
            now, _, part = answer.partition(NUL)
            if listed and now != generation:
                listed = b""
                continue
            listed, generation = listed + part, now
            if len(listed) <= 1 or listed.endswith(NUL + NUL):
                return listed

    def _ask(self, op: int, path: str, more: bytes, deadline: float) -> bytes | None:
        payload = os.fsencode(path) + NUL + more
        request = Packet._make((op, next_rq_id(), 0, len(payload), payload))
        self._wire.deadline = deadline
        try:
            self._wire.send(request)
            answer = self._wire.recv()
        except (PyXSError, OSError) as error:
            self.close()
            raise StoreError(f"{self._path}: no answer from xenstored: {error}") from None
        if answer.rq_id != request.rq_id or answer.op not in {op, Op.ERROR}:
            self.close()
            raise StoreError(f"{self._path}: xenstored answered something that was not asked")
        if answer.op == op:
            return bytes(answer.payload)
        if answer.payload == b"ENOENT\0":
            return None
        raise _RefusalError(path, answer.payload.rstrip(NUL))


def default_socket() -> str:
    """Where xenstored listens: $XENSTORED_PATH as for libxenstore, else the place that exists."""
    configured = os.environ.get("XENSTORED_PATH", "")
    return configured or next((path for path in _SOCKETS if Path(path).exists()), _SOCKETS[0])


class _Wire(UnixSocketConnection):  # type: ignore[misc]  # pyxs ships no types
    """pyxs's connection over a socket on which every wait ends at `deadline`."""

    deadline = 0.0

    def create_transport(self) -> _Transport:
        return _Transport(self)

    def recv(self) -> Packet:
        """The next packet, whether pyxs knows its operation or not."""
        op, rq_id, tx_id, size = Packet._struct.unpack(self.transport.recv(Packet._struct.size))
        return Packet._make((op, rq_id, tx_id, size, self.transport.recv(size)))


class _Transport:
    """What pyxs expects under a connection: exact reads and writes, failing with OSError."""

    def __init__(self, wire: _Wire) -> None:
        self._wire = wire
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # xenstored listens with a backlog of 1: when it hangs, a blocking connect would wait with it.
        self._socket.setblocking(False)
        try:
            self._socket.connect(wire.path)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, data: bytes) -> None:
        self._limit_wait()
        self._socket.sendall(data)

    def recv(self, size: int) -> bytes:
        received = bytearray()
        while len(received) < size:
            self._limit_wait()
            chunk = self._socket.recv(size - len(received))
            if not chunk:
                raise ConnectionResetError(errno.ECONNRESET, "xenstored closed the connection")
            received += chunk
        return bytes(received)

    def close(self) -> None:
        self._socket.close()

    def _limit_wait(self) -> None:
        remaining = self._wire.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "timed out")
        self._socket.settimeout(remaining)

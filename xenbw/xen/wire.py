"""A small client of xenstored. Each of its waits ends at a deadline.

The protocol is in xen/include/public/io/xs_wire.h, what each operation asks and answers in docs/misc/xenstore.txt. The
hook imports this at each start of a vif, so it imports next to nothing; it uses Store. The daemon and the CLI use
xen/xenstore.py and xen/changes.py, which are built on Wire.
"""

from __future__ import annotations

import _socket  # socket without its enums and selectors, which take 5 ms to import
import os
import sys
import time

from xenbw.text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    _T = TypeVar("_T")

# xs_wire.h, enum xsd_sockmsg_type
DIRECTORY, READ, GET_PERMS, DIRECTORY_PART = 1, 2, 3, 22
_ERROR = 16
_HEADER = 16  # type, req_id, tx_id, len: four 32-bit words in the machine's byte order
_PAYLOAD_MAX = 4096  # xs_wire.h, XENSTORE_PAYLOAD_MAX
_NUL = b"\0"
_RETRY = 0.002


class RefusedError(OSError):
    """xenstored answered with an error. `code` is its name, such as "EINVAL"; the connection can be used on."""

    def __init__(self, code: str) -> None:
        super().__init__(f"xenstored refuses: {code}")
        self.code = code


def socket_path() -> str:
    """The socket on which xenstored listens: $XENSTORED_PATH, as for the xenstore-* tools, or Debian's."""
    return os.environ.get("XENSTORED_PATH") or "/run/xenstored/socket"


class Wire:
    """A connection to xenstored. A deadline is a time.monotonic() value.

    Every call raises OSError when xenstored is not there, does not answer in time, or answers with something else than
    was asked. The connection is closed by every error but RefusedError, and each later call fails.
    """

    def __init__(self, path: str, deadline: float = 0.0) -> None:
        """Connect; where too many others wait for xenstored to accept them, try again until the deadline."""
        self._stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._requests = 0
        try:
            _connect(self._stream, path, deadline)
        except OSError:
            self._stream.close()
            raise

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._stream.close()

    def read(self, path: str, deadline: float) -> str | None:
        """The value at `path`, None when there is no such node."""
        value = self._ask(READ, path, deadline)
        return None if value is None else decode(value)

    def owner(self, path: str, deadline: float) -> int | None:
        """The domid that owns the node at `path`, None when there is no such node."""
        permissions = self._ask(GET_PERMS, path, deadline)
        return None if permissions is None else _owner(permissions)

    def children(self, path: str, deadline: float) -> list[bytes]:
        """The names of the nodes below `path`; none when there is no such node."""
        try:
            listed = self._ask(DIRECTORY, path, deadline) or b""
        except RefusedError as refusal:
            if refusal.code != "E2BIG":
                raise
            listed = self._children_in_parts(path, deadline)
        return [name for name in listed.split(_NUL) if name]

    def _children_in_parts(self, path: str, deadline: float) -> bytes:
        """A list that does not fit into one answer. Each part begins with the node's generation, which changes when
        children come or go, and the last part ends with a second NUL (docs/misc/xenstore.txt, DIRECTORY_PART)."""
        listed, generation = b"", b""
        while listed != _NUL and not listed.endswith(_NUL + _NUL):
            answer = self._ask(DIRECTORY_PART, path, deadline, b"%d\0" % len(listed))
            if answer is None:
                return b""
            now, _, part = answer.partition(_NUL)
            if listed and now != generation:
                listed = b""
                continue
            if not part:
                raise self._broken("sent a part of a list with nothing in it")
            listed, generation = listed + part, now
        return listed

    def _ask(
        self, operation: int, path: str, deadline: float, argument: bytes = b"", transaction: int = 0
    ) -> bytes | None:
        """The payload of xenstored's answer, None when it says that there is no such node (ENOENT). transaction: the
        number of the transaction that the request is part of; 0: none."""
        self._requests = (self._requests + 1) % (1 << 32)  # it is sent in 32 bits
        payload = os.fsencode(path) + _NUL + argument
        try:
            self._send(_header(operation, self._requests, transaction, len(payload)) + payload, deadline)
            kind, number, _, length = _words(self._receive(_HEADER, deadline))
            if length > _PAYLOAD_MAX:
                raise self._broken(f"announced {length} bytes, and {_PAYLOAD_MAX} are the most")
            answer = self._receive(length, deadline)
        except OSError:
            self.close()
            raise
        if number != self._requests or kind not in (operation, _ERROR):
            raise self._broken("answered something that was not asked")
        if kind == operation:
            return answer
        code = decode(answer.rstrip(_NUL))
        if code == "ENOENT":
            return None
        raise RefusedError(code)

    def _send(self, request: bytes, deadline: float) -> None:
        self._stream.settimeout(_remaining(deadline))
        self._stream.sendall(request)

    def _receive(self, size: int, deadline: float) -> bytes:
        data = b""
        while len(data) < size:
            self._stream.settimeout(_remaining(deadline))
            part = self._stream.recv(size - len(data))
            if not part:
                raise OSError("xenstored closed the connection")
            data += part
        return data

    def _broken(self, fault: str) -> OSError:
        """What an answer that breaks the protocol is raised as. Nothing that follows it can be trusted."""
        self.close()
        return OSError(f"xenstored {fault}")


class Store:
    """xenstored as the hook reads it: each request may take `patience` seconds, and a value that xenstored refuses to
    tell is None like one that is absent. Calls raise OSError."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        # The hooks of a guest's vifs run at the same time, and its other hotplug scripts ask xenstored too.
        self._wire = Wire(socket_path(), time.monotonic() + patience)

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def read(self, path: str) -> str | None:
        """The value at `path`."""
        return self._told(self._wire.read, path)

    def owner(self, path: str) -> int | None:
        """The domid that owns the node at `path`."""
        return self._told(self._wire.owner, path)

    def _told(self, ask: Callable[[str, float], _T | None], path: str) -> _T | None:
        try:
            return ask(path, time.monotonic() + self._patience)
        except RefusedError:
            return None


def _connect(stream: _socket.socket, path: str, deadline: float) -> None:
    """xenstored listens with a backlog of 1, and a blocking connect waits for it as long as xenstored hangs."""
    stream.setblocking(False)
    while True:
        try:
            stream.connect(path)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_RETRY)
        else:
            return


def _header(operation: int, number: int, transaction: int, length: int) -> bytes:
    return b"".join(word.to_bytes(4, sys.byteorder) for word in (operation, number, transaction, length))


def _words(header: bytes) -> tuple[int, ...]:
    return tuple(int.from_bytes(header[at : at + 4], sys.byteorder) for at in range(0, _HEADER, 4))


def _owner(permissions: bytes) -> int | None:
    """The domid in the first entry of a node's permissions, such as b"n0" (docs/misc/xenstore.txt, GET_PERMS)."""
    digits = permissions.split(_NUL, 1)[0][1:]
    return int(digits) if digits.isdigit() else None


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("timed out")
    return remaining

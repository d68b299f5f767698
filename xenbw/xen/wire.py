"""Reading a few xenstore keys in under a millisecond, for the hook.

Importing pyxs costs as much as all the rest of the hook; everyone with time to spare uses xen/xenstore.py.
Protocol: xen/include/public/io/xs_wire.h.
"""

from __future__ import annotations

import _socket  # socket without the enums and selectors around it, which take 5 ms to import
import os
import sys

from xenbw.text import decode

_XS_READ, _XS_GET_PERMS = 2, 3
_HEADER = 16  # type, req_id, tx_id, len: four 32-bit words in the machine's own order
# xs_wire.h, XENSTORE_PAYLOAD_MAX
_LONGEST = 4096


def socket_path() -> str:
    """Where xenstored listens: $XENSTORED_PATH, as the xenstore-* tools take it, or Debian's place."""
    return os.environ.get("XENSTORED_PATH") or "/run/xenstored/socket"


def owner_of(permissions: bytes) -> int | None:
    """The domid in the first entry of a node's permissions, such as b"n0" (docs/misc/xenstore.txt, GET_PERMS)."""
    digits = permissions.split(b"\0", 1)[0][1:]
    return int(digits) if digits.isdigit() else None


class Wire:
    """A connection to xenstored on which each wait ends after `timeout` seconds. Every call raises OSError when
    xenstored is not there or silent."""

    def __init__(self, timeout: float) -> None:
        self._stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            self._stream.settimeout(timeout)
            self._stream.connect(socket_path())
        except OSError:
            self._stream.close()
            raise

    def close(self) -> None:
        self._stream.close()

    def read(self, path: str) -> str | None:
        """The value at `path`, None when absent."""
        value = self._ask(_XS_READ, path)
        return None if value is None else decode(value)

    def owner(self, path: str) -> int | None:
        """The domain that owns the node at `path`, None when absent."""
        permissions = self._ask(_XS_GET_PERMS, path)
        return None if permissions is None else owner_of(permissions)

    def _ask(self, operation: int, path: str) -> bytes | None:
        body = path.encode() + b"\0"
        words = (operation, 0, 0, len(body))
        self._stream.sendall(b"".join(word.to_bytes(4, sys.byteorder) for word in words) + body)
        header = self._receive(_HEADER)
        kind, length = (int.from_bytes(header[at : at + 4], sys.byteorder) for at in (0, 12))
        if length > _LONGEST:
            raise OSError("xenstored: reply too long")
        value = self._receive(length)
        return value if kind == operation else None

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._stream.recv(size - len(data))
            if not part:
                raise OSError("xenstored closed the connection")
            data += part
        return data

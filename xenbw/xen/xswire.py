"""Reading a few xenstore keys in under a millisecond, for the hook.

Importing pyxs costs as much as all the rest of the hook; everyone with time to spare uses xen/xenstore.py.
Protocol: xen/include/public/io/xs_wire.h.
"""

from __future__ import annotations

import _socket  # socket without the enums and selectors around it, which take 5 ms to import
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_XS_READ = 2
_HEADER = 16  # type, req_id, tx_id, len: four 32-bit words in the machine's own order
# xs_wire.h, XENSTORE_PAYLOAD_MAX
_LONGEST = 4096


def socket_path() -> str:
    """Where xenstored listens: $XENSTORED_PATH, as the xenstore-* tools take it, or Debian's place."""
    return os.environ.get("XENSTORED_PATH") or "/run/xenstored/socket"


def read(paths: Iterable[str], timeout: float) -> list[bytes | None]:
    """The values at these paths, None for each that is absent. Raises OSError when xenstored is not there or silent."""
    stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        stream.settimeout(timeout)
        stream.connect(socket_path())
        return [_ask(stream, path) for path in paths]
    finally:
        stream.close()


def _ask(stream: _socket.socket, path: str) -> bytes | None:
    body = path.encode() + b"\0"
    stream.sendall(b"".join(word.to_bytes(4, sys.byteorder) for word in (_XS_READ, 0, 0, len(body))) + body)
    header = _receive(stream, _HEADER)
    kind, length = (int.from_bytes(header[at : at + 4], sys.byteorder) for at in (0, 12))
    if length > _LONGEST:
        raise OSError("xenstored: reply too long")
    value = _receive(stream, length)
    return value if kind == _XS_READ else None


def _receive(stream: _socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise OSError("xenstored closed the connection")
        data += part
    return data

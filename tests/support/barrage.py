"""Many packets per second: frames that a device sends again and again, at a steady rate, by a program of its own.

sendmmsg(2) hands the kernel many frames at once: a loop over send(2) in Python sends too few on a busy machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.netns import Namespace

_ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def barrage(place: Namespace, device: str, frames: Sequence[bytes], rate: int) -> Iterator[None]:
    """Inside, the device sends these frames in turn, so many in a second."""
    argv = [sys.executable, "-m", "tests.support.barrage", device, str(rate), *(one.hex() for one in frames)]
    process = place.popen(argv, output=Path(os.devnull), env={**os.environ, "PYTHONPATH": str(_ROOT)})
    try:
        yield
    finally:
        process.kill()
        process.wait()


class _Vector(ctypes.Structure):  # struct iovec
    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):  # struct mmsghdr, sendmmsg(2)
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vectorlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
        ("sent", ctypes.c_uint),
    )


def _send(device: str, rate: int, frames: Sequence[bytes]) -> None:
    # Ahead of the tests and of other programs, as a guest with a processor of its own is.
    os.setpriority(os.PRIO_PROCESS, 0, -10)
    vectors = [_Vector(one, len(one)) for one in frames]
    headers = (_Header * len(frames))(
        *(_Header(vectors=ctypes.pointer(vector), vectorlen=1) for vector in vectors),
    )
    sendmmsg = ctypes.CDLL(None, use_errno=True).sendmmsg
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        begin, sent = time.monotonic(), 0
        while True:
            while sent < (time.monotonic() - begin) * rate:
                sent += max(1, sendmmsg(sender.fileno(), headers, len(frames), 0))
            time.sleep(0.001)


if __name__ == "__main__":
    _send(sys.argv[1], int(sys.argv[2]), [bytes.fromhex(word) for word in sys.argv[3:]])

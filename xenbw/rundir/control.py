"""The daemon's door: a unix socket that takes one JSON line and answers with one.

{"op": "poke"} there is news, no answer is waited for; {"op": "sync"} read the ledger anew, judge and enforce, then
answer; {"op": "commit"} count to this moment and write it, then answer; {"op": "status"}
answer with the daemon's state. Any other line is answered with {"error": ...}.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xenbw.errors import XenbwError

_LONGEST = 4096
Answer = dict[str, Any]


class NoDaemonError(XenbwError):
    """No daemon listens there."""


def socket_path(run_dir: Path) -> Path:
    return run_dir / "xenbwd.sock"


def ask(run_dir: Path, op: str, timeout: float = 5.0) -> Answer:
    """Ask the daemon. Raises NoDaemonError when none listens, XenbwError when it does not answer in time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(timeout)
        try:
            stream.connect(str(socket_path(run_dir)))
        except TimeoutError:
            raise XenbwError("xenbwd does not answer", "systemctl status xenbwd") from None
        except OSError:
            raise NoDaemonError("xenbwd is not running", "systemctl start xenbwd") from None
        try:
            stream.sendall(json.dumps({"op": op}).encode() + b"\n")
            data = b""
            while part := stream.recv(65536):
                data += part
            answer: Answer = json.loads(data)
        except (OSError, ValueError):
            raise XenbwError("xenbwd does not answer", "systemctl status xenbwd") from None
    return answer


class Server:
    """The listening end, for an event loop: `accept` when the socket is readable, then `serve` each stream."""

    def __init__(self, run_dir: Path, handle: Callable[[str], Answer]) -> None:
        self._handle = handle
        path = socket_path(run_dir)
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        old = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(old)
        self._socket.listen(128)
        self._path, self._inode = path, path.stat().st_ino

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> socket.socket | None:
        """The next caller, not to be waited for."""
        try:
            stream, _ = self._socket.accept()
        except OSError:
            return None
        stream.setblocking(False)
        return stream

    def serve(self, stream: socket.socket) -> None:
        """Take the caller's line, do what it says, answer, hang up. Who sends no whole line at once is not waited for:
        all callers are on this host and write theirs in one piece."""
        with stream:
            try:
                op = _op(stream.recv(_LONGEST))
            except OSError:
                return
            except ValueError:
                answer: Answer = {"error": f"not understood: a request is a line of JSON of {_LONGEST} bytes at most"}
            else:
                answer = self._handle(op)
            with contextlib.suppress(OSError):  # a hook does not wait for its answer
                stream.setblocking(True)
                stream.settimeout(0.2)
                stream.sendall(json.dumps(answer).encode() + b"\n")

    def stands(self) -> bool:
        """Whether callers find this socket where they look for it."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def shut(self) -> None:
        """Answer nobody any more; what is in its place is another's."""
        self._socket.close()

    def close(self) -> None:
        self.shut()
        self._path.unlink(missing_ok=True)


def _op(line: bytes) -> str:
    """What a caller asks for. Raises ValueError. A request is one object with nothing in it that is another: json goes
    down into each by a call, and some thousand are more than Python takes (RecursionError)."""
    if line.count(b"{") != 1 or b"[" in line:
        raise ValueError
    request = json.loads(line)
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        raise ValueError
    return str(request["op"])

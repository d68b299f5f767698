"""The daemon's control socket: a unix socket that takes one line of JSON and answers with one.

{"op": "poke"}: there is news; the caller does not wait for the answer. {"op": "sync"}: read the ledger again, judge and
enforce, then answer. {"op": "commit"}: count up to now and write it to the ledger, then answer. {"op": "status"}:
answer with the daemon's state. The answer to any other line is {"error": ...}.
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
    """No daemon listens on the socket."""


def socket_path(run_dir: Path) -> Path:
    return run_dir / "xenbwd.sock"


def ask(run_dir: Path, op: str, timeout: float = 5.0) -> Answer:
    """The daemon's answer. Raises NoDaemonError when no daemon listens, XenbwError when it does not answer in time."""
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
        """The next caller's stream, which does not block; None if there is no caller."""
        try:
            stream, _ = self._socket.accept()
        except OSError:
            return None
        stream.setblocking(False)
        return stream

    def serve(self, stream: socket.socket) -> None:
        """Read the caller's request, handle it, answer and close the stream. A request that has not arrived whole is
        an error: all callers are on this host and write it in one piece."""
        with stream:
            try:
                op = _op(stream.recv(_LONGEST))
            except OSError:
                return
            except ValueError:
                answer: Answer = {"error": f"not understood: a request is a line of JSON of {_LONGEST} bytes at most"}
            else:
                answer = self._handle(op)
            with contextlib.suppress(OSError):  # a hook does not wait for the answer
                stream.setblocking(True)
                stream.settimeout(0.2)
                stream.sendall(json.dumps(answer).encode() + b"\n")

    def stands(self) -> bool:
        """Whether the socket's path still leads to this socket."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def shut(self) -> None:
        """Close the socket and leave its path alone: another daemon's socket may be there."""
        self._socket.close()

    def close(self) -> None:
        self.shut()
        self._path.unlink(missing_ok=True)


def _op(line: bytes) -> str:
    """The `op` of a request. Raises ValueError. A request is one JSON object without objects or lists in it: json
    parses nested ones by recursion, and some thousand levels would raise RecursionError."""
    if line.count(b"{") != 1 or b"[" in line:
        raise ValueError
    request = json.loads(line)
    if not isinstance(request, dict) or not isinstance(request.get("op"), str):
        raise ValueError
    return str(request["op"])

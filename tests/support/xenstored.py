"""A stand-in for xenstored: the real wire protocol (xen/include/public/io/xs_wire.h) over a unix socket.

The real daemon needs a hypervisor; its clients (xenstore-read and its siblings, libxenstore) need only the socket.
Every connection is dom0's: relative paths are resolved under /local/domain/0 and permissions are kept but not enforced.
Runs as threads of a test (`with Xenstored(path)`) or as a process (`python -m tests.support.xenstored SOCKET`).
"""

from __future__ import annotations

import signal
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Self

from tests.support.xstree import Node, RefusedError, Tree, names

_HOME = b"/local/domain/0"
_HEADER = struct.Struct("=IIII")  # type, req_id, tx_id, len
_PAYLOAD_MAX = 4096


class Op(IntEnum):
    """enum xsd_sockmsg_type, as far as it is served."""

    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    DIRECTORY_PART = 22


@dataclass(frozen=True)
class Watch:
    """A client's watch; `path` is absolute, `prefix` is left out of its events (a relative watch)."""

    path: bytes
    token: bytes
    prefix: bytes

    def event_for(self, changed: bytes) -> bytes | None:
        """The path to report for a change at `changed`, or None when this watch does not cover it."""
        if changed == self.path or changed.startswith(self.path.rstrip(b"/") + b"/"):
            return changed.removeprefix(self.prefix)
        if self.path.startswith(changed + b"/"):  # a parent went away, and the watched node with it
            return self.path.removeprefix(self.prefix)
        return None


class Xenstored(socketserver.ThreadingUnixStreamServer):
    """The server and the tree it serves. `seen` lists every path that clients asked for, with the operation."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), _Connection)
        self.path = path
        self.seen: list[tuple[Op, str]] = []
        self.tree = Tree()
        self.lock = threading.RLock()
        self.connections: set[_Connection] = set()
        self.answering = threading.Event()
        self.answering.set()
        self.dead = False
        self.write_all({"/local/domain/0/name": "Domain-0", "/local/domain/0/domid": "0"})

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """Stop as a killed xenstored does: every client's connection closes, the socket's name stays behind."""
        self.shutdown()
        self.server_close()
        with self.lock:
            self.dead = True
            for connection in self.connections:
                connection.hang_up()
        self.answering.set()

    def hang(self) -> None:
        """Accept connections and requests from now on, but answer none."""
        self.answering.clear()

    def resume(self) -> None:
        """Answer again, beginning with the requests that came while hung."""
        self.answering.set()

    def read(self, path: str) -> str | None:
        """The value at an absolute path; None when absent."""
        with self.lock:
            try:
                return self.tree.node(path.encode()).value.decode()
            except RefusedError:
                return None

    def list(self, path: str) -> list[str]:
        """The names of the children of an absolute path, oldest first; none when it is absent."""
        with self.lock:
            try:
                return [name.decode() for name in self.tree.node(path.encode()).children]
            except RefusedError:
                return []

    def write_all(self, values: Mapping[str, str | bytes]) -> None:
        """Write values by absolute path, as the toolstack does; watches fire."""
        with self.lock:
            for path, value in values.items():
                self.tree.write(path.encode(), value.encode() if isinstance(value, str) else value)
            self.fire()

    def remove(self, path: str) -> None:
        """Remove an absolute path and all below; watches fire."""
        with self.lock:
            self.tree.remove(path.encode())
            self.fire()

    def fire(self) -> None:
        """Send every watching client events for the tree's latest changes."""
        touched, self.tree.touched = self.tree.touched, []
        for changed in touched:
            for connection in list(self.connections):
                connection.notify(changed)


class _Connection(socketserver.BaseRequestHandler):
    """One client: its watches and its open transactions. It has a method for each kind of request, so more than
    twenty."""

    server: Xenstored
    request: socket.socket

    def setup(self) -> None:
        self.watches: list[Watch] = []
        self.transactions: dict[int, Tree] = {}
        self.next_transaction = 1
        with self.server.lock:
            self.server.connections.add(self)
            if self.server.dead:
                self.hang_up()

    def handle(self) -> None:
        try:
            while header := self.request.recv(_HEADER.size, socket.MSG_WAITALL):
                op, req_id, tx_id, size = _HEADER.unpack(header)
                if size > _PAYLOAD_MAX:
                    return
                payload = self.request.recv(size, socket.MSG_WAITALL) if size else b""
                self.server.answering.wait()
                with self.server.lock:
                    self._answer(op, req_id, tx_id, payload)
        except (OSError, struct.error):
            return  # the client went away, perhaps in the middle of a request

    def finish(self) -> None:
        with self.server.lock:
            self.server.connections.discard(self)

    def hang_up(self) -> None:
        try:
            self.request.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the client closed it first

    def notify(self, changed: bytes) -> None:
        for watch in self.watches:
            path = watch.event_for(changed)
            if path is not None:
                self._send(Op.WATCH_EVENT, 0, 0, path + b"\0" + watch.token + b"\0")

    def _answer(self, op: int, req_id: int, tx_id: int, payload: bytes) -> None:
        try:
            if op not in _HANDLERS:
                raise RefusedError(b"ENOSYS")
            answer = _HANDLERS[Op(op)](self, tx_id, payload)
            if len(answer) > _PAYLOAD_MAX:
                raise RefusedError(b"E2BIG")
        except RefusedError as refusal:
            self._send(Op.ERROR, req_id, tx_id, refusal.code + b"\0")
            return
        self._send(op, req_id, tx_id, answer)
        if op == Op.WATCH:
            watch = self.watches[-1]  # every new watch fires at once
            self._send(Op.WATCH_EVENT, 0, 0, watch.path.removeprefix(watch.prefix) + b"\0" + watch.token + b"\0")
        self.server.fire()

    def _send(self, op: int, req_id: int, tx_id: int, payload: bytes) -> None:
        try:
            self.request.sendall(_HEADER.pack(op, req_id, tx_id, len(payload)) + payload)
        except OSError:
            self.hang_up()

    def _tree(self, tx_id: int) -> Tree:
        if not tx_id:
            return self.server.tree
        if tx_id not in self.transactions:
            raise RefusedError(b"ENOENT")
        return self.transactions[tx_id]

    def _node(self, op: Op, tx_id: int, payload: bytes) -> Node:
        return self._tree(tx_id).node(self._path(op, payload))

    def _path(self, op: Op, payload: bytes) -> bytes:
        path, nul, _ = payload.partition(b"\0")
        if not nul:
            raise RefusedError(b"EINVAL")
        path = path if path.startswith((b"/", b"@")) else _HOME + b"/" + path
        self.server.seen.append((op, path.decode("ascii", "replace")))
        return path

    def _directory(self, tx_id: int, payload: bytes) -> bytes:
        return b"".join(name + b"\0" for name in self._node(Op.DIRECTORY, tx_id, payload).children)

    def _directory_part(self, tx_id: int, payload: bytes) -> bytes:
        listed, offset = self._directory(tx_id, payload) + b"\0", int(payload.split(b"\0")[1])
        generation = b"%d\0" % self._tree(tx_id).generation
        part = listed[offset : offset + _PAYLOAD_MAX - len(generation)]
        # Return whole names only; an empty name marks the end of the list.
        return generation + (part if offset + len(part) == len(listed) else part[: part.rindex(b"\0") + 1])

    def _read(self, tx_id: int, payload: bytes) -> bytes:
        return self._node(Op.READ, tx_id, payload).value

    def _get_perms(self, tx_id: int, payload: bytes) -> bytes:
        return b"".join(perm + b"\0" for perm in self._node(Op.GET_PERMS, tx_id, payload).perms)

    def _write(self, tx_id: int, payload: bytes) -> bytes:
        self._tree(tx_id).write(self._path(Op.WRITE, payload), payload.partition(b"\0")[2])
        return b"OK\0"

    def _mkdir(self, tx_id: int, payload: bytes) -> bytes:
        self._tree(tx_id).mkdir(self._path(Op.MKDIR, payload))
        return b"OK\0"

    def _rm(self, tx_id: int, payload: bytes) -> bytes:
        self._tree(tx_id).remove(self._path(Op.RM, payload))
        return b"OK\0"

    def _set_perms(self, tx_id: int, payload: bytes) -> bytes:
        perms = payload.rstrip(b"\0").split(b"\0")[1:]
        if not perms:
            raise RefusedError(b"EINVAL")
        self._tree(tx_id).set_perms(self._path(Op.SET_PERMS, payload), tuple(perms))
        return b"OK\0"

    def _transaction_start(self, _tx_id: int, _payload: bytes) -> bytes:
        tx_id, self.next_transaction = self.next_transaction, self.next_transaction + 1
        self.transactions[tx_id] = self.server.tree.snapshot()
        return b"%d\0" % tx_id

    def _transaction_end(self, tx_id: int, payload: bytes) -> bytes:
        result = self.transactions.pop(tx_id, None)
        if result is None:
            raise RefusedError(b"ENOENT")
        if payload == b"T\0" and result.touched:
            if self.server.tree.generation != result.generation - len(result.touched):
                raise RefusedError(b"EAGAIN")
            self.server.tree.adopt(result)
        return b"OK\0"

    def _watch(self, _tx_id: int, payload: bytes) -> bytes:
        watch = self._parse_watch(Op.WATCH, payload)
        if watch in self.watches:
            raise RefusedError(b"EEXIST")
        self.watches.append(watch)
        return b"OK\0"

    def _unwatch(self, _tx_id: int, payload: bytes) -> bytes:
        watch = self._parse_watch(Op.UNWATCH, payload)
        if watch not in self.watches:
            raise RefusedError(b"ENOENT")
        self.watches.remove(watch)
        return b"OK\0"

    def _parse_watch(self, op: Op, payload: bytes) -> Watch:
        parts = payload.split(b"\0")
        if len(parts) != 3:
            raise RefusedError(b"EINVAL")
        path = self._path(op, payload)
        if not path.startswith(b"@"):
            names(path)
        return Watch(path, parts[1], b"" if parts[0].startswith((b"/", b"@")) else _HOME + b"/")

    def _get_domain_path(self, _tx_id: int, payload: bytes) -> bytes:
        domid = payload.rstrip(b"\0")
        if not domid.isdigit():
            raise RefusedError(b"EINVAL")
        return b"/local/domain/" + domid + b"\0"


_HANDLERS: dict[Op, Callable[[_Connection, int, bytes], bytes]] = {
    Op.DIRECTORY: _Connection._directory,
    Op.DIRECTORY_PART: _Connection._directory_part,
    Op.READ: _Connection._read,
    Op.GET_PERMS: _Connection._get_perms,
    Op.WATCH: _Connection._watch,
    Op.UNWATCH: _Connection._unwatch,
    Op.TRANSACTION_START: _Connection._transaction_start,
    Op.TRANSACTION_END: _Connection._transaction_end,
    Op.GET_DOMAIN_PATH: _Connection._get_domain_path,
    Op.WRITE: _Connection._write,
    Op.MKDIR: _Connection._mkdir,
    Op.RM: _Connection._rm,
    Op.SET_PERMS: _Connection._set_perms,
}


if __name__ == "__main__":
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # before any thread exists, so that all inherit it
    with Xenstored(Path(sys.argv[1])):
        signal.sigwait(ends)

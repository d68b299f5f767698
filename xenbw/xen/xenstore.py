"""xenstore, read only: what the toolstack wrote about a vif and its domain.

pyxs does the protocol. Its Client and Router are left out on purpose: a request waits there for ever when xenstored
hangs, and also when it dies, because the router thread ends without telling who waits. Under a socket with a deadline
pyxs's connection is synchronous and every wait ends.

Guests can write below their own device/, data/ and control/: nothing there is read, and a backend's `frontend` (a
path into device/) is not followed.
"""

from __future__ import annotations

import errno
import os
import queue
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pyxs._internal import NUL, Op, Packet, next_rq_id
from pyxs.connection import UnixSocketConnection
from pyxs.exceptions import PyXSError

from xenbw.errors import XenbwError
from xenbw.xen.text import base_name, decode

_SOCKETS = ("/run/xenstored/socket", "/var/run/xenstored/socket")


class StoreError(XenbwError):
    """xenstored is not there, went away, gave no answer in time, or refused to answer."""


@dataclass(frozen=True)
class VifFacts:
    """A vif as xenstore knows it; None is what xenstore does not say.

    `name` is the VM's own name, without xl's migration suffixes. `ips` is the backend's `ip` as it was configured:
    addresses separated by spaces, perhaps with prefix lengths, "" when none. `interface` is the configured `vifname`.
    """

    domid: int
    devid: int
    name: str | None
    uuid: str | None
    mac: str | None
    ips: str
    bridge: str | None
    hotplug_status: str | None
    interface: str | None
    script: str | None


class XenStore:
    """A connection to xenstored. No call takes longer than `timeout` seconds; after a StoreError, make a new one."""

    def __init__(self, path: str | None = None, *, timeout: float = 5.0) -> None:
        self.path = path or default_socket()
        self._timeout = timeout
        self._connection = _Connection(self.path)
        try:
            self._connection.connect()
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot reach xenstored: {error.strerror}", "systemctl status xen.service says more"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; closing twice is fine."""
        self._connection.close()

    def read(self, path: str) -> str | None:
        """The value at `path` (a relative path is below /local/domain/0), None when absent. Raises StoreError."""
        return self._read(path, time.monotonic() + self._timeout)

    def vif(self, domid: int, devid: int) -> VifFacts | None:
        """The facts about a vif, None when xenstore has no such vif. Raises StoreError.

        The keys are read one by one: of a vif that is going away, some may be missing already.
        """
        deadline = time.monotonic() + self._timeout

        def backend(key: str) -> str | None:
            return self._read(f"/local/domain/0/backend/vif/{domid}/{devid}/{key}", deadline)

        frontend_id = backend("frontend-id")
        if frontend_id is None:
            return None
        if not (frontend_id.isascii() and frontend_id.isdigit()):
            raise StoreError(f"backend/vif/{domid}/{devid}: frontend-id is {frontend_id!r}, not a domid")
        domain = f"/local/domain/{int(frontend_id)}"
        name = self._read(f"{domain}/name", deadline)
        vm = self._read(f"{domain}/vm", deadline)
        return VifFacts(
            domid=int(frontend_id),
            devid=devid,
            name=base_name(name) if name else None,
            uuid=vm.removeprefix("/vm/") if vm else None,
            mac=backend("mac"),
            ips=backend("ip") or "",
            bridge=backend("bridge"),
            hotplug_status=backend("hotplug-status"),
            interface=backend("vifname") or None,
            script=backend("script"),
        )

    def _read(self, path: str, deadline: float) -> str | None:
        self._connection.deadline = deadline
        try:
            request = Packet(Op.READ, os.fsencode(path) + NUL, next_rq_id())
            self._connection.send(request)
            answer = self._connection.recv()
        except (PyXSError, OSError) as error:
            self.close()
            raise StoreError(f"{self.path}: no answer from xenstored: {error}") from None
        if answer.rq_id != request.rq_id or answer.op not in {Op.READ, Op.ERROR}:
            self.close()
            raise StoreError(f"{self.path}: xenstored answered something that was not asked")
        if answer.op == Op.READ:
            return decode(answer.payload)
        if answer.payload == b"ENOENT\0":
            return None
        raise StoreError(f"xenstored refuses to read {path!r}: {decode(answer.payload.rstrip(NUL))}")


@dataclass(frozen=True)
class Answer:
    """What became of a lookup: the facts, or None when there is no such vif, or why it could not be told."""

    domid: int
    devid: int
    facts: VifFacts | None
    error: StoreError | None = None


class Lookup:
    """Asks xenstore from a thread of its own, so that a hung xenstored never stalls who asks.

    `fileno()` is readable while answers wait. When a request fails (at the latest after `timeout` seconds), all that
    wait behind it fail with it, and the next is tried on a fresh connection `pause` seconds later. Every wait of the
    thread ends, so it is one thread however often xenstored hangs, and it never keeps the process from exiting.
    """

    def __init__(self, path: str | None = None, *, timeout: float = 5.0, pause: float = 1.0) -> None:
        self._path = path
        self._timeout = timeout
        self._pause = pause
        self._asked: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._answered: deque[Answer] = deque()
        self._closed = threading.Event()
        # A pair of sockets and not an eventfd: writing to a closed socket fails, its number is not somebody else's.
        self._readable, self._bell = socket.socketpair()
        self._readable.setblocking(False)
        self._bell.setblocking(False)
        threading.Thread(target=self._serve, name="xenstore-lookup", daemon=True).start()

    def fileno(self) -> int:
        """For a selector: readable while answers wait."""
        return self._readable.fileno()

    def ask(self, domid: int, devid: int) -> None:
        """Ask for the facts about a vif; returns at once, the answer comes through `answers`."""
        self._asked.put((domid, devid))

    def answers(self) -> list[Answer]:
        """The answers that have come since the last call, oldest first; never waits."""
        try:
            self._readable.recv(4096)
        except BlockingIOError:
            return []
        return [self._answered.popleft() for _ in range(len(self._answered))]

    def close(self) -> None:
        """Stop asking; what was asked and not answered is forgotten. Does not wait for the thread."""
        self._closed.set()
        self.ask(0, 0)  # wakes the thread from its wait for a request
        self._readable.close()
        self._bell.close()

    def _serve(self) -> None:
        store: XenStore | None = None
        while True:
            vif = self._asked.get()
            if self._closed.is_set():
                break
            try:
                store = store or XenStore(self._path, timeout=self._timeout)
                self._answer(Answer(*vif, store.vif(*vif)))
            except StoreError as error:
                for failed in (vif, *self._waiting()):
                    self._answer(Answer(*failed, None, error))
                if store:
                    store.close()
                    store = None
                self._closed.wait(self._pause)
        if store:
            store.close()

    def _waiting(self) -> list[tuple[int, int]]:
        return [self._asked.get() for _ in range(self._asked.qsize())]

    def _answer(self, answer: Answer) -> None:
        self._answered.append(answer)
        try:
            self._bell.send(b"\0")
        except OSError:
            return  # closed, or so many answers wait that the bell rings anyway


def default_socket() -> str:
    """Where xenstored listens: $XENSTORED_PATH as for libxenstore, else the place that exists."""
    configured = os.environ.get("XENSTORED_PATH", "")
    return configured or next((path for path in _SOCKETS if Path(path).exists()), _SOCKETS[0])


class _Connection(UnixSocketConnection):  # type: ignore[misc]  # pyxs ships no types
    """pyxs's connection over a socket on which every wait ends at `deadline` (a time.monotonic() value)."""

    deadline = 0.0

    def create_transport(self) -> _Transport:
        return _Transport(self)


class _Transport:
    """What pyxs expects under a connection: exact reads and writes, failing with OSError."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # xenstored listens with a backlog of 1: when it hangs, a blocking connect would wait with it.
        self._socket.setblocking(False)
        try:
            self._socket.connect(connection.path)
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
        remaining = self._connection.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "timed out")
        self._socket.settimeout(remaining)

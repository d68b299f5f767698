"""xenstore, read only: what the toolstack wrote about a vif and its domain.

Guests can write below their own device/, data/ and control/: nothing there is read, and a backend's `frontend` (a
path into device/) is not followed.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Self

from xenbw.xen import identity
from xenbw.xen.connection import Connection, StoreError
from xenbw.xen.survey import Outside, survey
from xenbw.xen.wire import socket_path

__all__ = ["Answer", "Lookup", "StoreError", "Survey", "VifFacts", "XenStore"]

_CONNECTED = "4"  # xen/include/public/io/xenbus.h, XenbusStateConnected


@dataclass(frozen=True)
class VifFacts:
    """A vif as xenstore knows it; None is what xenstore does not say.

    `name` is the VM's own name, without xl's migration suffixes and what libxl calls a crashed domain that is kept; for
    the vif of a stub device model, its guest's. `called` is that domain's name as it stands there. `runs`: the guest
    has connected the vif, so its domain is not one that is still being received. `ips` is the backend's `ip` as it was
    configured: addresses separated by spaces, perhaps with prefix lengths, "" when none. `interface` is the configured
    `vifname`.
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
    called: str | None = field(default=None, compare=False)
    runs: bool = field(default=False, compare=False)


class XenStore:
    """A connection to xenstored. No call takes longer than `timeout` seconds; after a StoreError, make a new one."""

    def __init__(self, path: str | None = None, *, timeout: float = 5.0) -> None:
        self._timeout = timeout
        self._connection = Connection(path or socket_path())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection; closing twice is fine."""
        self._connection.close()

    def read(self, path: str) -> str | None:
        """The value at `path` (a relative path is below /local/domain/0), None when absent. Raises StoreError."""
        return self._connection.read(path, time.monotonic() + self._timeout)

    def owner(self, path: str) -> int | None:
        """The domain that owns the node at `path`, None when absent. Raises StoreError."""
        return self._connection.owner(path, time.monotonic() + self._timeout)

    def numbers(self, path: str) -> set[int]:
        """The children of `path` whose names are numbers; none where there is no such path. Debian's vif-bridge puts
        others beside the domains (xen-network-common.sh, set_mtu of a renamed vif). Raises StoreError."""
        names = self._connection.children(path, time.monotonic() + self._timeout)
        return {int(name) for name in names if name.isdigit()}

    def vif(self, domid: int, devid: int) -> VifFacts | None:
        """The facts about a vif, None when xenstore has no such vif. Raises StoreError.

        The keys are read one by one: of a vif that is going away, some may be missing already.
        """
        store = _InTime(self._connection, time.monotonic() + self._timeout)

        def backend(key: str) -> str | None:
            return store.read(f"/local/domain/0/backend/vif/{domid}/{devid}/{key}")

        frontend_id = backend("frontend-id")
        if frontend_id is None:
            return None
        if not (frontend_id.isascii() and frontend_id.isdigit()):
            raise StoreError(f"backend/vif/{domid}/{devid}: frontend-id is {frontend_id!r}, not a domid")
        state = backend("state")
        # Read after the state: a domain that is being received gets its name before it may run.
        whose = identity.served(store, int(frontend_id))
        called = store.read(f"/local/domain/{whose}/name")
        vm = store.read(f"/local/domain/{whose}/vm")
        return VifFacts(
            domid=int(frontend_id),
            devid=devid,
            name=identity.vm_name(store, called, vm) if called else None,
            uuid=vm.removeprefix("/vm/") if vm else None,
            mac=backend("mac"),
            ips=backend("ip") or "",
            bridge=backend("bridge"),
            hotplug_status=backend("hotplug-status"),
            interface=backend("vifname") or None,
            script=backend("script"),
            called=called or None,
            # A stub runs before its guest does.
            runs=state == _CONNECTED and whose == int(frontend_id),
        )


class _InTime:
    """What identity asks: all of it until one deadline."""

    def __init__(self, connection: Connection, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline

    def read(self, path: str) -> str | None:
        return self._connection.read(path, self._deadline)

    def owner(self, path: str) -> int | None:
        return self._connection.owner(path, self._deadline)


@dataclass(frozen=True)
class Answer:
    """What became of a lookup: the facts, or None when there is no such vif, or why it could not be told."""

    domid: int
    devid: int
    facts: VifFacts | None
    error: StoreError | None = None


@dataclass(frozen=True)
class Survey:
    """What became of a survey: the domains of which not all traffic is seen here, or why that could not be told."""

    domains: tuple[Outside, ...]
    error: StoreError | None = None


# What the thread is asked: a vif by (domid, devid), or for a survey.
_SURVEY = None
_Question = tuple[int, int] | None


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
        self._asked: queue.SimpleQueue[_Question] = queue.SimpleQueue()
        self._answered: deque[Answer | Survey] = deque()
        self._surveying = threading.Event()
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

    def survey(self) -> None:
        """Ask for a survey, unless one is under way; returns at once, the answer comes through `answers`."""
        if not self._surveying.is_set():
            self._surveying.set()
            self._asked.put(_SURVEY)

    def answers(self) -> list[Answer | Survey]:
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
            question = self._asked.get()
            if self._closed.is_set():
                break
            try:
                store = store or XenStore(self._path, timeout=self._timeout)
                if question is _SURVEY:
                    self._answer(Survey(survey(store)))
                else:
                    self._answer(Answer(*question, store.vif(*question)))
            except StoreError as error:
                for failed in (question, *self._waiting()):
                    self._answer(Survey((), error) if failed is _SURVEY else Answer(*failed, None, error))
                if store:
                    store.close()
                    store = None
                self._closed.wait(self._pause)
        if store:
            store.close()

    def _waiting(self) -> list[_Question]:
        return [self._asked.get() for _ in range(self._asked.qsize())]

    def _answer(self, answer: Answer | Survey) -> None:
        if isinstance(answer, Survey):
            self._surveying.clear()
        self._answered.append(answer)
        try:
            self._bell.send(b"\0")
        except OSError:
            return  # closed, or so many answers wait that the bell rings anyway

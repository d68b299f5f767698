"""Read from xenstore what the toolstack wrote about a vif and its domain.

Guests can write below their own device/, data/ and control/. Nothing there is read, and a backend's `frontend`, which
is a path into device/, is not followed.
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
    """What xenstore says about a vif; None if it does not say.

    `name` is the VM's name, without the suffixes that xl appends during a migration and libxl to a crashed domain that
    is kept; for the vif of a stub device model it is the name of the guest. `called` is the domain's name in xenstore.
    `runs`: the guest has connected the vif, so its domain is no longer being received. `ips` is the backend's `ip` as
    configured: addresses separated by spaces, perhaps with prefix lengths; "" if there is none. `interface` is the
    configured `vifname`.
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
        """Close the connection; a second call does nothing."""
        self._connection.close()

    def read(self, path: str) -> str | None:
        """The value at `path` (a relative path is below /local/domain/0), None when there is no such node. Raises
        StoreError."""
        return self._connection.read(path, time.monotonic() + self._timeout)

    def owner(self, path: str) -> int | None:
        """The domid that owns the node at `path`, None when there is no such node. Raises StoreError."""
        return self._connection.owner(path, time.monotonic() + self._timeout)

    def numbers(self, path: str) -> set[int]:
        """The children of `path` whose names are numbers; none if there is no such node. Debian's vif-bridge writes
        other nodes beside the domains (xen-network-common.sh, set_mtu of a renamed vif). Raises StoreError."""
        names = self._connection.children(path, time.monotonic() + self._timeout)
        return {int(name) for name in names if name.isdigit()}

    def vif(self, domid: int, devid: int) -> VifFacts | None:
        """The facts about a vif, None when xenstore has no such vif. Raises StoreError.

        The keys are read one by one, since some keys of a vif that is being removed may already be missing.
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
        # The name is read after the state, since a domain that is being received gets its name before it may run.
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
            # A stub device model runs before its guest does.
            runs=state == _CONNECTED and whose == int(frontend_id),
        )


class _InTime:
    """The connection as identity.py uses it, with one deadline for all requests."""

    def __init__(self, connection: Connection, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline

    def read(self, path: str) -> str | None:
        return self._connection.read(path, self._deadline)

    def owner(self, path: str) -> int | None:
        return self._connection.owner(path, self._deadline)


@dataclass(frozen=True)
class Answer:
    """The result of a lookup: the facts, None if there is no such vif, or the error that prevented the lookup."""

    domid: int
    devid: int
    facts: VifFacts | None
    error: StoreError | None = None


@dataclass(frozen=True)
class Survey:
    """The result of a survey: the domains of which this dom0 does not see all traffic, or the error that prevented the
    survey."""

    domains: tuple[Outside, ...]
    error: StoreError | None = None


# A question to the thread: a vif by (domid, devid), or a survey.
_SURVEY = None
_Question = tuple[int, int] | None


class Lookup:
    """Asks xenstore from a thread of its own, so that a hung xenstored never stalls the caller.

    `fileno()` is readable while there are answers. When a question fails (after `timeout` seconds at the latest), all
    waiting questions fail with it, and the next one is tried on a new connection `pause` seconds later. Every wait of
    the thread ends, so one thread is enough however often xenstored hangs, and it never keeps the process from exiting.
    """

    def __init__(self, path: str | None = None, *, timeout: float = 5.0, pause: float = 1.0) -> None:
        self._path = path
        self._timeout = timeout
        self._pause = pause
        self._asked: queue.SimpleQueue[_Question] = queue.SimpleQueue()
        self._open: set[_Question] = set()  # what is asked and not yet taken up
        self._answered: deque[Answer | Survey] = deque()
        self._surveying = threading.Event()
        self._closed = threading.Event()
        # Not an eventfd: its number may belong to another file once it is closed, while a closed socket refuses writes.
        self._readable, self._bell = socket.socketpair()
        self._readable.setblocking(False)
        self._bell.setblocking(False)
        threading.Thread(target=self._serve, name="xenstore-lookup", daemon=True).start()

    def fileno(self) -> int:
        """For a selector: readable while there are answers."""
        return self._readable.fileno()

    def ask(self, domid: int, devid: int) -> None:
        """Ask for the facts about a vif, unless that question waits already. Returns at once; `answers` returns the
        answer later."""
        question = (domid, devid)
        if question not in self._open:
            self._open.add(question)
            self._asked.put(question)

    def survey(self) -> None:
        """Ask for a survey, unless one is under way. Returns at once; `answers` returns the result later."""
        if not self._surveying.is_set():
            self._surveying.set()
            self._asked.put(_SURVEY)

    def answers(self) -> list[Answer | Survey]:
        """The answers that arrived since the last call, oldest first; never waits."""
        try:
            self._readable.recv(4096)
        except BlockingIOError:
            return []
        return [self._answered.popleft() for _ in range(len(self._answered))]

    def close(self) -> None:
        """Stop the thread without waiting for it. Questions that it has not answered are dropped."""
        self._closed.set()
        self.ask(0, 0)  # wakes the thread, which waits for a question
        self._readable.close()
        self._bell.close()

    def _serve(self) -> None:
        store: XenStore | None = None
        while True:
            question = self._take()
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

    def _take(self) -> _Question:
        question = self._asked.get()
        # Before it is looked at: who asks from now on wants a newer answer.
        self._open.discard(question)
        return question

    def _waiting(self) -> list[_Question]:
        return [self._take() for _ in range(self._asked.qsize())]

    def _answer(self, answer: Answer | Survey) -> None:
        if isinstance(answer, Survey):
            self._surveying.clear()
        self._answered.append(answer)
        try:
            self._bell.send(b"\0")
        except OSError:
            return  # the lookup was closed, or so many answers wait that the socket is readable anyway

"""Write into xenstore what each guest may read about its own VM: the nodes /local/domain/<domid>/xenbw/*.

libxl makes a guest's home /local/domain/<domid> as a node of dom0 that the guest may only read (libxl_create.c,
libxl__domain_make: roperm), so the guest can neither make `xenbw` there nor change it. Under xend a guest owned its
home; therefore a tree that dom0 did not make with these permissions is replaced. All nodes belong to dom0, so they
count against no guest's quota (xenstored_domain.c, domain_entry_inc: the owner's).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from xenbw.xen import identity
from xenbw.xen.changes import Changer, Transaction
from xenbw.xen.wire import RefusedError, socket_path

FOLDER = "xenbw"


@dataclass(frozen=True)
class Notice:
    """What a guest reads. name: the VM to which its domain belongs. values: by the name of the node."""

    name: str
    values: Mapping[str, str]


class Notices:
    """Writes notices in a thread of its own, so that a hung xenstored never stalls the caller.

    What could not be written is tried again on a new connection, unless the caller has offered something newer. Every
    wait of the thread ends after `timeout` seconds, and the thread never keeps the process from exiting. `problem` says
    why the last try failed, or is None.
    """

    def __init__(self, path: str | None = None, *, timeout: float = 5.0, pause: float = 1.0) -> None:
        self._path, self._timeout, self._pause = path or socket_path(), timeout, pause
        self._offered: dict[int, Notice | None] = {}
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        # What this connection to xenstored has written, by domid.
        self._written: dict[int, Mapping[str, str]] = {}
        self.problem: str | None = None

    def offer(self, notices: Mapping[int, Notice | None]) -> None:
        """Have these notices written, by domid; None: have the guest's nodes removed. Returns at once."""
        if not notices:
            return
        with self._changed:
            self._offered.update(notices)
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="notices", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop the thread without waiting for it. Nodes that are there stay: `updated` tells how old they are."""
        self._closed.set()
        with self._changed:
            self._changed.notify()

    def _serve(self) -> None:
        store: Changer | None = None
        while (taken := self._take()) is not None:
            try:
                if store is None:
                    self._written = {}
                    store = Changer(self._path, time.monotonic() + self._timeout)
                self._put(store, *taken)
                self.problem = None
            except RefusedError as error:
                self.problem = f"{_folder(taken[0])}: {error}"
            except OSError as error:
                self.problem = f"{self._path}: {error.strerror or error} (systemctl status xen.service says more)"
                if store is not None:
                    store.close()
                    store = None
                with self._changed:
                    self._offered.setdefault(*taken)
                self._closed.wait(self._pause)
        if store is not None:
            store.close()

    def _take(self) -> tuple[int, Notice | None] | None:
        """The notice that has waited longest; None at the end."""
        with self._changed:
            while not (self._offered or self._closed.is_set()):
                self._changed.wait()
            if self._closed.is_set():
                return None
            domid = next(iter(self._offered))
            return domid, self._offered.pop(domid)

    def _put(self, store: Changer, domid: int, notice: Notice | None) -> None:
        before = self._written.pop(domid, None)
        store.change(lambda nodes: put(nodes, domid, notice, before), time.monotonic() + self._timeout)
        if notice is not None:
            self._written[domid] = notice.values


def put(nodes: Transaction, domid: int, notice: Notice | None, before: Mapping[str, str] | None) -> None:
    """Make a guest's nodes this notice, or remove them, also if its domain is gone or belongs to another VM by now.
    before: the values that this program last wrote; None: it does not know what is there. Raises OSError."""
    folder, permissions = _folder(domid), ("n0", f"r{domid}")
    if notice is None or not _belongs(nodes, domid, notice.name):
        if nodes.permissions(folder) is not None:
            nodes.remove(folder)
        return
    # Inside the transaction: a write after libxl has removed the home would make it again, without a domain.
    if before is None or nodes.permissions(folder) != permissions:
        nodes.remove(folder)
        nodes.write(folder, "")
        nodes.permit(folder, permissions)
        before = {}
    for name, value in notice.values.items():
        if name not in before:
            nodes.write(f"{folder}/{name}", value)
            nodes.permit(f"{folder}/{name}", permissions)
        elif value != before[name]:
            nodes.write(f"{folder}/{name}", value)


def _belongs(nodes: Transaction, domid: int, name: str) -> bool:
    """Whether this is the domain of that VM, and not that of its stub device model, which has a vif of it as well."""
    called = nodes.read(f"/local/domain/{domid}/name")
    if not called or identity.served(nodes, domid) != domid:
        return False
    return identity.vm_name(nodes, called, nodes.read(f"/local/domain/{domid}/vm")) == name


def _folder(domid: int) -> str:
    return f"/local/domain/{domid}/{FOLDER}"

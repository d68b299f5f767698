"""Find the running domains whose traffic this dom0 does not see: they have no vif here, or one in a driver domain.

Only nodes that the toolstack writes are read. libxl records a domain's devices in /libxl/<domid> (libxl_device.c,
libxl__device_generic_add), which guests can neither read nor write.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from xenbw.xen import identity
from xenbw.xen.connection import StoreError

# Seconds. A thousand domains take some thousands of requests of some microseconds each.
_LIMIT = 30.0
_BACKEND = re.compile(r"/local/domain/(\d+)/backend/vif/", re.ASCII)


class Store(Protocol):
    """A xenstore connection. None and an empty set stand for nodes that do not exist. Each call raises StoreError."""

    def read(self, path: str) -> str | None: ...

    def owner(self, path: str) -> int | None: ...

    def numbers(self, path: str) -> set[int]: ...


@dataclass(frozen=True)
class Outside:
    """A running domain of which this dom0 does not see all traffic.

    name: its VM's. called: the domain's own name in xenstore. here: how many vifs it has in this dom0. elsewhere:
    (devid, domid of the driver domain, name of the driver domain) of each vif whose backend is in a driver domain.
    """

    domid: int
    name: str
    here: int
    elsewhere: tuple[tuple[int, int, str | None], ...]
    called: str = field(default="", compare=False)


def survey(store: Store) -> tuple[Outside, ...]:
    """The domains of running VMs that have no vif in this dom0, or some in a driver domain. Raises StoreError."""
    return tuple(_outside(store))


def _outside(store: Store) -> Iterator[Outside]:
    limit = time.monotonic() + _LIMIT
    for domid in sorted(store.numbers("/local/domain") - {0}):
        here = store.numbers(f"/local/domain/0/backend/vif/{domid}")
        elsewhere = tuple(_elsewhere(store, domid, here))
        if not here or elsewhere:
            called, vm = (store.read(f"/local/domain/{domid}/{key}") for key in ("name", "vm"))
            # When a domain is destroyed, its name is removed first.
            name = identity.vm_name(store, called, vm) if called else ""
            dead = called is not None and identity.preserved(called) == name
            if called and name and not dead and not identity.helps(store, domid):
                yield Outside(domid, name, len(here), elsewhere, called)
        if time.monotonic() > limit:
            raise StoreError("xenstored is too slow to look at every domain", "systemctl status xen.service says more")


def _elsewhere(store: Store, domid: int, here: set[int]) -> Iterator[tuple[int, int, str | None]]:
    for devid in sorted(store.numbers(f"/libxl/{domid}/device/vif") - here):
        backend = _BACKEND.match(store.read(f"/libxl/{domid}/device/vif/{devid}/backend") or "")
        if backend is not None and (driver := int(backend[1])):
            yield devid, driver, store.read(f"/local/domain/{driver}/name")

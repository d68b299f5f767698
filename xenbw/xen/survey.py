"""Which running domains have traffic that this dom0 does not see: no vif here, or one in a driver domain.

What is asked is the toolstack's own. libxl records a domain's devices in /libxl/<domid> (libxl_device.c,
libxl__device_generic_add), which guests can neither read nor write.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from xenbw.xen.connection import StoreError
from xenbw.xen.text import base_name

# Seconds. A thousand domains are some thousands of requests, each of some microseconds.
_LIMIT = 30.0
_BACKEND = re.compile(r"/local/domain/(\d+)/backend/vif/", re.ASCII)


class Store(Protocol):
    """What is asked. None and an empty set are what there is not; both raise StoreError."""

    def read(self, path: str) -> str | None: ...

    def numbers(self, path: str) -> set[int]: ...


@dataclass(frozen=True)
class Outside:
    """A running domain of which this dom0 does not see all traffic.

    here: how many vifs it has in this dom0. elsewhere: (devid, domid of the driver domain, its name) of each of its
    vifs whose backend another domain has.
    """

    domid: int
    name: str
    here: int
    elsewhere: tuple[tuple[int, int, str | None], ...]


def survey(store: Store) -> tuple[Outside, ...]:
    """The running domains, but for dom0, that have no vif here or some elsewhere. Raises StoreError."""
    return tuple(_outside(store))


def _outside(store: Store) -> Iterator[Outside]:
    limit = time.monotonic() + _LIMIT
    for domid in sorted(store.numbers("/local/domain") - {0}):
        here = store.numbers(f"/local/domain/0/backend/vif/{domid}")
        elsewhere = tuple(_elsewhere(store, domid, here))
        # Of a domain that is being destroyed the name goes first.
        if (not here or elsewhere) and (name := base_name(store.read(f"/local/domain/{domid}/name") or "")):
            yield Outside(domid, name, len(here), elsewhere)
        if time.monotonic() > limit:
            raise StoreError("xenstored is too slow to look at every domain", "systemctl status xen.service says more")


def _elsewhere(store: Store, domid: int, here: set[int]) -> Iterator[tuple[int, int, str | None]]:
    for devid in sorted(store.numbers(f"/libxl/{domid}/device/vif") - here):
        backend = _BACKEND.match(store.read(f"/libxl/{domid}/device/vif/{devid}/backend") or "")
        if backend is not None and (driver := int(backend[1])):
            yield devid, driver, store.read(f"/local/domain/{driver}/name")

"""Find the names of the VMs among the domains that the toolstack lists.

The list alone is not enough: it pads names with blanks, prints a line break as a line break, and has helper domains
and crashed domains beside VMs. xenstore has each name whole, and tells to which VM a domain belongs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from xenbw.text import base_name
from xenbw.xen import identity
from xenbw.xen.toolstack import Domain
from xenbw.xen.xenstore import StoreError, XenStore

_CONNECTED = "4"  # xen/include/public/io/xenbus.h, XenbusStateConnected


def of(listed: Iterable[Domain], *, xend: bool) -> list[str]:
    """The VMs' names, in the order of the list; a VM that migrates to its own host is there twice. xend: whether xm
    made the list. If xenstored does not answer, the names are taken from the list."""
    listed = list(listed)
    try:
        with XenStore() as store:
            return [name for domain in listed for name in _names(store, domain, xend)]
    except StoreError:
        return [_listed_as(domain, xend) for domain in listed]


def _names(store: XenStore, domain: Domain, xend: bool) -> Iterator[str]:
    """The name of the domain's VM; nothing if the domain is not a VM or is gone."""
    if domain.domid is None:
        yield domain.name
        return
    called, vm = (store.read(f"/local/domain/{domain.domid}/{key}") for key in ("name", "vm"))
    if not called or identity.helps(store, domain.domid):
        return
    name = identity.vm_name(store, called, vm)
    if name == identity.preserved(called):
        return
    if name != called and _runs(store, domain.domid):
        name = called
    yield (identity.former(name) if xend else None) or name


def _runs(store: XenStore, domid: int) -> bool:
    """Whether the guest has connected a vif; a domain that is still being received has not."""
    vifs = f"/local/domain/0/backend/vif/{domid}"
    return any(store.read(f"{vifs}/{devid}/state") == _CONNECTED for devid in store.numbers(vifs))


def _listed_as(domain: Domain, xend: bool) -> str:
    return (identity.former(domain.name) if xend else None) or base_name(domain.name)

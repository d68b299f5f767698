"""The names of the VMs among the domains that the toolstack lists.

The list alone does not tell them: it pads names with blanks, prints a line break as one, and has helper domains and
crashed ones beside VMs. xenstore has each name whole, and says whose a domain is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from xenbw.text import base_name
from xenbw.xen import identity
from xenbw.xen.toolstack import Domain
from xenbw.xen.xenstore import StoreError, XenStore

_CONNECTED = "4"  # xen/include/public/io/xenbus.h, XenbusStateConnected


def of(listed: Iterable[Domain], *, xend: bool) -> list[str]:
    """The VMs' names, in the order listed; of a migration to this very host, one twice. xend: it was xm that listed.
    Where xenstore does not answer, the list has to do."""
    listed = list(listed)
    try:
        with XenStore() as store:
            return [name for domain in listed for name in _names(store, domain, xend)]
    except StoreError:
        return [_listed_as(domain, xend) for domain in listed]


def _names(store: XenStore, domain: Domain, xend: bool) -> Iterator[str]:
    """The name of the domain's VM; none for one that is no VM, or gone."""
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
    """Whether a guest has connected a vif, as one that is being received has not."""
    vifs = f"/local/domain/0/backend/vif/{domid}"
    return any(store.read(f"{vifs}/{devid}/state") == _CONNECTED for devid in store.numbers(vifs))


def _listed_as(domain: Domain, xend: bool) -> str:
    return (identity.former(domain.name) if xend else None) or base_name(domain.name)

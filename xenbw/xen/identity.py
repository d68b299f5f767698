"""Find out to which VM a domain's traffic belongs, from nodes in xenstore that only the toolstack can write. The name
alone is not enough, since a tenant may choose it.

A guest may read its home /local/domain/<domid> and its /vm/<uuid>, and write to a few folders below them, which libxl
makes (libxl_create.c, libxl__domain_make: roperm). The hook imports this module, so it imports next to nothing.
"""

from __future__ import annotations

import os

from xenbw.text import AWAY, base_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Store(Protocol):
        """A connection to xenstore. None stands for a node that does not exist."""

        def read(self, path: str) -> str | None: ...

        def owner(self, path: str) -> int | None: ...


# How xend's names begin for a domain that it is sending, and for one that cannot be destroyed (XendCheckpoint.py, save;
# XendConstants.py).
_XEND = ("migrating-", "Zombie-")
# How the name of a crashed domain that is kept ends (xl_vmcontrol.c, preserve_domain: "-%Y%m%dT%H%MZ").
_STAMP = "-00000000T0000Z"
# More processes than there are between the hook and the program that runs the hotplug script.
_ANCESTORS = 16


def served(store: Store, domid: int) -> int:
    """The domain whose traffic this domain carries: for a stub device model its guest, else the domain itself.

    libxl writes the guest's domid to the stub's `target` before the stub gets a vif (libxl_dm.c, libxl__spawn_stub_dm).
    Under xend a guest owned its home and could create a `target` itself. xenstored makes the domain that creates a node
    its owner (docs/misc/xenstore.txt), so only a node that dom0 owns is believed.
    """
    path = f"/local/domain/{domid}/target"
    target = store.read(path)
    if target is None or not (target.isascii() and target.isdigit()) or len(target) > 5 or store.owner(path) != 0:
        return domid
    return int(target) or domid


def helps(store: Store, domid: int) -> bool:
    """Whether a domain is a helper of the host or of a guest, and not a VM: a stub device model, xenstored in a domain
    of its own (init-xenstore-domain.c), or a driver domain (its home has a folder `libxl` if its config says
    `driver_domain = 1`, see libxl_create.c, libxl__domain_make; and a folder `backend` if it has backends)."""
    home = f"/local/domain/{domid}"
    return (
        served(store, domid) != domid
        or store.read("/tool/xenstored/domid") == str(domid)
        or any(store.owner(f"{home}/{folder}") is not None for folder in ("libxl", "backend"))
    )


def preserved(called: str) -> str | None:
    """The VM's name, if `called` looks like the name that libxl gives a crashed domain that is kept; else None."""
    base, stamp = called[: -len(_STAMP)], called[-len(_STAMP) :]
    like = "".join("0" if char.isascii() and char.isdigit() else char for char in stamp)
    return base if base and like == _STAMP else None


def corpse_of(called: str, vm_name: str | None) -> str | None:
    """The VM whose crashed domain is kept under the name `called`; None if `called` is a VM's own name.

    vm_name: the value of /vm/<uuid>/name. A toolstack that starts or renames a domain writes its name there as well,
    but libxl_domain_preserve gives the domain a new uuid, whose folder gets no name (libxl_domain.c:
    libxl__domain_rename uses the hypervisor's uuid, which does not change).
    """
    return preserved(called) if vm_name != called else None


def vm_name(store: Store, called: str, vm: str | None) -> str:
    """The name of the VM to which the domain named `called` belongs, as far as xenstore tells. vm: the path of its
    uuid, from its home."""
    if vm and preserved(called):
        return corpse_of(called, store.read(f"{vm}/name")) or called
    return base_name(called)


def former(called: str) -> str | None:
    """The VM to which a domain belongs, if a toolstack has renamed the domain to `called`; else None."""
    if called.endswith(AWAY):
        return called.removesuffix(AWAY)
    return next((called.removeprefix(prefix) for prefix in _XEND if called.startswith(prefix)), None)


def received(pid: int | None = None) -> bool:
    """Whether `xl migrate-receive` started a process, by default the calling one, directly or through others."""
    pid = os.getpid() if pid is None else pid
    try:
        for _ in range(_ANCESTORS):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                program, *arguments = file.read().split(b"\0")
            if program.rpartition(b"/")[2] == b"xl" and b"migrate-receive" in arguments:
                return True
            # The program's name, in parentheses, may hold anything (proc(5)).
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        pass  # pid 0: the process has no more ancestors
    return False

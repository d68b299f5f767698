"""Whose traffic a domain's is, told by what only the toolstack writes in xenstore, and not by the name alone: a tenant
may choose a name.

libxl gives a guest its home /local/domain/<domid> and its /vm/<uuid> to read (libxl_create.c, libxl__domain_make:
roperm), and makes the few folders below them that it may write. The hook imports this, so it imports next to nothing.
"""

from __future__ import annotations

import os

from xenbw.text import AWAY, base_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Store(Protocol):
        """What is asked of xenstore. None is what is not there."""

        def read(self, path: str) -> str | None: ...

        def owner(self, path: str) -> int | None: ...


# xend's names for a domain that it sends, and for one that will not die (XendCheckpoint.py, save; XendConstants.py).
_XEND = ("migrating-", "Zombie-")
# A crashed domain that is kept (xl_vmcontrol.c, preserve_domain: "-%Y%m%dT%H%MZ").
_STAMP = "-00000000T0000Z"
# More than lie between the hook and the program that runs the script.
_ANCESTORS = 16


def served(store: Store, domid: int) -> int:
    """The domain whose traffic this domain carries: for a stub device model its guest, else the domain itself.

    libxl writes the guest's domid to the stub's `target` before the stub gets a vif (libxl_dm.c, libxl__spawn_stub_dm).
    Under xend a guest owned its home and could have written one: xenstored makes whoever creates a node its owner
    (docs/misc/xenstore.txt), so the node must be dom0's.
    """
    path = f"/local/domain/{domid}/target"
    target = store.read(path)
    if target is None or not (target.isascii() and target.isdigit()) or len(target) > 5 or store.owner(path) != 0:
        return domid
    return int(target) or domid


def helps(store: Store, domid: int) -> bool:
    """Whether a domain is a part of the host or of a guest and no VM: a stub device model, the xenstored of a host that
    gives it a domain (init-xenstore-domain.c), a driver domain (libxl makes a folder `libxl` in its home for
    `driver_domain = 1`: libxl_create.c, libxl__domain_make; and one for the backends that it has)."""
    home = f"/local/domain/{domid}"
    return (
        served(store, domid) != domid
        or store.read("/tool/xenstored/domid") == str(domid)
        or any(store.owner(f"{home}/{folder}") is not None for folder in ("libxl", "backend"))
    )


def preserved(called: str) -> str | None:
    """The VM's name, if this looks like what libxl calls a crashed domain that is kept."""
    base, stamp = called[: -len(_STAMP)], called[-len(_STAMP) :]
    like = "".join("0" if char.isascii() and char.isdigit() else char for char in stamp)
    return base if base and like == _STAMP else None


def corpse_of(called: str, vm_name: str | None) -> str | None:
    """The VM whose crashed domain this is, kept under another name; None for a VM of that name.

    vm_name: what /vm/<uuid>/name says. Whoever starts or renames a domain writes its name there as well, but
    libxl_domain_preserve gives the domain a new uuid, whose folder gets no name (libxl_domain.c: libxl__domain_rename
    goes by the hypervisor's uuid, which stays).
    """
    return preserved(called) if vm_name != called else None


def vm_name(store: Store, called: str, vm: str | None) -> str:
    """The VM's name, as far as xenstore tells, of a domain that is called so. vm: its uuid's path, from its home."""
    if vm and preserved(called):
        return corpse_of(called, store.read(f"{vm}/name")) or called
    return base_name(called)


def former(called: str) -> str | None:
    """The VM that a domain is still of, if it was that VM's before it was called so: a toolstack's own renaming."""
    if called.endswith(AWAY):
        return called.removesuffix(AWAY)
    return next((called.removeprefix(prefix) for prefix in _XEND if called.startswith(prefix)), None)


def received(pid: int | None = None) -> bool:
    """Whether a process, the calling one if none is given, was started by `xl migrate-receive`."""
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
        pass  # pid 0: there is none above
    return False

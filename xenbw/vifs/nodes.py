"""To which domain an interface belongs by its xenbus node, and by its name.

A name proves nothing: `vifname=vif5.0` gives another domain's vif the name that netback gives to domain 5's. Only
netback writes the node, /sys/class/net/X/device/nodename (linux drivers/xen/xenbus). A tap has none: it is named after
its vif, with -emu (libxl_nic.c).

The hook uses this at each boot of a VM, so it imports next to nothing.
"""

from __future__ import annotations

import _socket

_SYSFS = "/sys/class/net"
_EMU = "-emu"


def named(interface: str) -> int | None:
    """The domain that an interface is named after: vif<domid>.<anything>."""
    domid, dot, _ = interface.removeprefix("vif").partition(".")
    return int(domid) if dot and interface.startswith("vif") and domid.isascii() and domid.isdecimal() else None


def owner(interface: str) -> int | None:
    """The domain that an interface belongs to by its node, or None without a node."""
    node = _node(interface)
    if node is None and interface.endswith(_EMU):
        node = _node(interface.removesuffix(_EMU))
    words = (node or "").strip().split("/")
    return int(words[2]) if words[:2] == ["backend", "vif"] and len(words) == 4 and words[2].isdecimal() else None


def called_after(domids: set[int]) -> list[tuple[int, str, int]]:
    """(ifindex, name, domid) of each interface that is named after one of these domains."""
    found = ((index, interface, named(interface)) for index, interface in _socket.if_nameindex())
    return [(index, interface, domid) for index, interface, domid in found if domid is not None and domid in domids]


def _node(interface: str) -> str | None:
    try:
        with open(f"{_SYSFS}/{interface}/device/nodename", encoding="ascii") as file:
            return file.readline()
    except (OSError, UnicodeDecodeError):
        return None

"""Which interfaces of this host are guests', and of which domains."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from xenbw.model import Kind, Life
from xenbw.text import decode

SYSFS = Path("/sys/class/net")
_NODENAME = re.compile(r"backend/vif/(\d+)/(\d+)", re.ASCII)
_NAME = re.compile(r"vif(\d+)\.(\d+)(-emu)?", re.ASCII)
_EMU = "-emu"


@dataclass(frozen=True)
class Vif:
    """A guest's interface in dom0. by_name: known only by its name, not by its xenbus node."""

    interface: str
    ifindex: int
    kind: Kind
    domid: int
    devid: int
    bridge: str | None
    by_name: bool

    @property
    def life(self) -> Life:
        return Life(self.domid, self.devid, self.ifindex)


def shown(interface: str) -> str:
    """The interface's name as it is kept and printed. To the kernel a name is bytes; bytes that are not UTF-8 are shown
    as in VMs' names."""
    return decode(os.fsencode(interface))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def identify(interface: str, sysfs: Path = SYSFS) -> Vif | None:
    """The guest's interface of that name, or None if there is none.

    A vif's identity is its xenbus node, /sys/class/net/X/device/nodename (linux drivers/xen/xenbus), which survives a
    rename. A tap has none: it is named after its vif, with -emu (libxl_nic.c). So a device with a node is a vif, even
    if `vifname=` gives it a tap's name. Other devices without a node are identified by the name vif<domid>.<devid>,
    with by_name set.
    """
    folder = sysfs / interface
    ifindex = _read(folder / "ifindex")
    if not ifindex:
        return None
    node = _NODENAME.fullmatch(_read(folder / "device" / "nodename") or "")
    emu = node is None and interface.endswith(_EMU)
    if emu:
        vif = sysfs / interface.removesuffix(_EMU)
        node = _NODENAME.fullmatch(_read(vif / "device" / "nodename") or "")
    found = node or _NAME.fullmatch(interface)
    if found is None:
        return None
    return Vif(
        interface=shown(interface),
        ifindex=int(ifindex),
        kind=Kind.EMU if emu else Kind.VIF,
        domid=int(found[1]),
        devid=int(found[2]),
        bridge=bridge_of(interface, sysfs),
        by_name=node is None and not emu,
    )


def bridge_of(interface: str, sysfs: Path = SYSFS) -> str | None:
    """The bridge that the interface is a port of, or None."""
    master = sysfs / interface / "master"
    return master.resolve().name if (master / "bridge").exists() else None


def present(sysfs: Path = SYSFS) -> dict[int, str]:
    """The names of all interfaces of this host, by ifindex."""
    found = {folder.name: _read(folder / "ifindex") for folder in sysfs.iterdir()}
    return {int(ifindex): interface for interface, ifindex in found.items() if ifindex}


def bridge_filtered(version: int, root: Path = Path("/proc/sys/net/bridge")) -> bool:
    """Whether iptables (4) or ip6tables (6) sees frames that a bridge forwards (br_netfilter, off on Debian)."""
    return _read(root / ("bridge-nf-call-iptables" if version == 4 else "bridge-nf-call-ip6tables")) == "1"

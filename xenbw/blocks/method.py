"""By which method addresses are null-routed: [enforce] null_routes names it, or "auto"."""

from __future__ import annotations

import ctypes
import errno
import socket
from contextlib import suppress

from xenbw.blocks import libiptc, null_text, restore
from xenbw.errors import MeterError
from xenbw.nft.tables import Tables
from xenbw.runner import CommandError, Runner

AUTO = "auto"
# IPT_SO_GET_INFO and struct ipt_getinfo, linux/netfilter_ipv4/ip_tables.h; the same numbers for IPv6.
_GET_INFO, _INFO = 64, 84
_FAMILIES = {4: (socket.AF_INET, socket.IPPROTO_IP), 6: (socket.AF_INET6, socket.IPPROTO_IPV6)}
_MODULES = {4: "iptable_filter", 6: "ip6table_filter"}
_PATIENCE = 5.0
_libc = ctypes.CDLL(None, use_errno=True)


def choose(setting: str, tables: Tables, run: Runner) -> tuple[str, str]:
    """The method that [enforce] null_routes names, and "". If it cannot work here, the other one, and why. "auto" is
    iptables where the kernel has the legacy tables, else nft."""
    if setting == null_text.METHOD:
        try:
            tables.generation()
        except MeterError as error:
            return restore.METHOD, f'null_routes = "{setting}" cannot be used, and iptables is: {error}'
        return setting, ""
    why_not = _lacks(run)
    if why_not is None:
        return restore.METHOD, ""
    told = "" if setting == AUTO else f'null_routes = "{setting}" cannot be used, and nft is: {why_not}'
    return null_text.METHOD, told


def _lacks(run: Runner) -> str | None:
    """What null routes in the legacy tables lack on this host, or None."""
    for version, module in _MODULES.items():
        if not _has(version):
            # In its sandbox the daemon cannot load it; its unit does.
            with suppress(CommandError):
                run(["modprobe", "--quiet", module], timeout=_PATIENCE)
            if not _has(version):
                return f"the kernel has no legacy filter table of IPv{version} (modprobe {module})"
    try:
        # It loads iptables' libraries as well, and fails in its own ways without them.
        libiptc.load()
    except Exception as error:  # noqa: BLE001
        return f"python3-iptables cannot be used: {error}"
    return None


def _has(version: int) -> bool:
    """Whether the kernel has the legacy filter table, or no addresses of that version. libiptc asks so first."""
    family, level = _FAMILIES[version]
    try:
        asker = socket.socket(family, socket.SOCK_DGRAM)
    except OSError:
        return True
    with asker:
        told, size = ctypes.create_string_buffer(b"filter", _INFO), ctypes.c_uint32(_INFO)
        if _libc.getsockopt(asker.fileno(), level, _GET_INFO, told, ctypes.byref(size)) == 0:
            return True
    # Without the module the option is unknown (ENOPROTOOPT), without the table the module says ENOENT.
    return ctypes.get_errno() not in (errno.ENOPROTOOPT, errno.ENOENT)

"""Empty the interface groups that udev filled with vifs of latched domains, once no latch holds (rundir/latched.py)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection
from pathlib import Path

from xenbw.vifs import interfaces

_SETLINK = 19  # RTM_SETLINK, linux/rtnetlink.h
_REQUEST, _ACK = 0x001, 0x004  # NLM_F_REQUEST, NLM_F_ACK
_IFLA_GROUP, _DEFAULT = 27, 0  # linux/if_link.h, net/core/dev.h
_HEADER, _LINK, _GROUP = struct.Struct("=IHHII"), struct.Struct("=BxHiII"), struct.Struct("=HHI")
_ERROR = struct.Struct("=i")


def leave(groups: Collection[int], sysfs: Path = interfaces.SYSFS) -> None:
    """Put every interface of these groups back into the default group. Raises OSError."""
    if not groups:
        return
    for folder in sysfs.iterdir():
        try:
            member = int((folder / "netdev_group").read_text(encoding="ascii")) in groups
            ifindex = int((folder / "ifindex").read_text(encoding="ascii")) if member else 0
        except (OSError, ValueError):
            continue  # the interface is gone, or the folder is not one
        if member:
            _set(ifindex, _DEFAULT)


def _set(ifindex: int, group: int) -> None:
    """By netlink, since the daemon finds sysfs read-only. An interface that is gone is no error."""
    body = _LINK.pack(0, 0, ifindex, 0, 0) + _GROUP.pack(_GROUP.size, _IFLA_GROUP, group)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as asker:
        asker.send(_HEADER.pack(_HEADER.size + len(body), _SETLINK, _REQUEST | _ACK, 1, 0) + body)
        answer = asker.recv(1 << 16)
    (error,) = _ERROR.unpack_from(answer, _HEADER.size)
    if error and -error != errno.ENODEV:
        raise OSError(-error, os.strerror(-error))

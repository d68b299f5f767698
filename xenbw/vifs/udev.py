"""The kernel's events of every interface that comes, is renamed or goes, beside what the hooks record."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyudev

# A thousand guests starting at once send some 10,000 events of half a kilobyte each.
_BUFFER = 8 * 1024 * 1024


@dataclass(frozen=True)
class NetEvent:
    """Something happened to an interface: action is add, move or remove."""

    action: str
    interface: str
    ifindex: int


@dataclass(frozen=True)
class BackendEvent:
    """Something happened to a guest's backend: action is add, online, offline or remove."""

    action: str
    domid: int
    devid: int


@dataclass(frozen=True)
class Overflow:
    """Events were lost: only a look at all interfaces can find what changed."""


Event = NetEvent | BackendEvent | Overflow


class Watcher:
    """Kernel uevents of net and xen-backend devices, read without waiting. buffer: bytes the kernel may queue.

    The kernel's own multicast group is used, not udevd's: it comes first, needs no udevd, and libudev accepts it from
    the kernel alone.
    """

    def __init__(self, buffer: int = _BUFFER) -> None:
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
        self._monitor.filter_by("net")
        self._monitor.filter_by("xen-backend")
        self._monitor.set_receive_buffer_size(buffer)
        self._monitor.start()
        self._socket = socket.socket(fileno=os.dup(self._monitor.fileno()))

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> Iterator[Event]:
        """All events that wait now."""
        while True:
            # The kernel reports lost events as the socket's error, once (netlink(7)); pyudev would raise at it and not
            # say which error it was.
            if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENOBUFS:
                yield Overflow()
            try:
                device = self._monitor.poll(timeout=0)
                if device is None:
                    return
                event = _event(device.action, device.subsystem, device.properties)
            except (OSError, UnicodeDecodeError):
                # Events were lost just now, or one holds a name that is no UTF-8, which pyudev cannot tell. What else
                # waits is read when the socket is found readable again.
                yield Overflow()
                return
            if event is not None:
                yield event

    def close(self) -> None:
        self._socket.close()


def _event(action: str, subsystem: str, properties: Mapping[str, str]) -> Event | None:
    if subsystem == "net" and action in ("add", "move", "remove"):
        return NetEvent(action, properties["INTERFACE"], int(properties["IFINDEX"]))
    if subsystem == "xen-backend" and action in ("add", "online", "offline", "remove"):
        words = properties.get("XENBUS_PATH", "").split("/")
        if len(words) == 4 and words[:2] == ["backend", "vif"] and words[2].isdecimal() and words[3].isdecimal():
            return BackendEvent(action, int(words[2]), int(words[3]))
    return None

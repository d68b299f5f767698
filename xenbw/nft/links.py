"""The interfaces of this host, read again only after the kernel told of a change: to read a thousand takes 8 ms."""

from __future__ import annotations

import socket

_LINK = 1  # RTMGRP_LINK, linux/rtnetlink.h


class Links:
    """The interfaces of the network namespace in which they are first asked for."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._known: list[tuple[int, str]] = []

    def now(self) -> list[tuple[int, str]]:
        """(ifindex, name) of each interface."""
        if self._changed():
            self._known = socket.if_nameindex()
        return self._known

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _changed(self) -> bool:
        """Whether an interface may have come, gone or been renamed since the last call."""
        if self._socket is None:
            kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
            self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            self._socket.bind((0, _LINK))
            return True
        told = False
        while True:
            try:
                self._socket.recv(1)
            except BlockingIOError:
                return told
            except OSError:
                pass  # messages were lost (ENOBUFS)
            told = True

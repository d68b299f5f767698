"""Network namespaces without names: a file descriptor of this process holds them, so they vanish with the process."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_NO_IPV6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
_libc = ctypes.CDLL(None, use_errno=True)


class Place(Protocol):
    """A network in which work can be done."""

    def do(self, work: Callable[[], _T]) -> _T: ...


class Here:
    """The network of this process."""

    def do(self, work: Callable[[], _T]) -> _T:
        return work()


class Namespace:
    """A new empty network, without IPv6, which would send packets by itself. Raises OSError."""

    def __init__(self) -> None:
        self._file = _alone(_make)

    @property
    def path(self) -> str:
        """The namespace's path, as an argument of `ip link ... netns`."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def do(self, work: Callable[[], _T]) -> _T:
        """Run `work` in the namespace and return its result. Its sockets and commands stay in the namespace."""

        def enter() -> _T:
            _check(_libc.setns(self._file, _CLONE_NEWNET))
            return work()

        return _alone(enter)

    def close(self) -> None:
        os.close(self._file)


def has_ipv6() -> bool:
    """Whether the kernel has IPv6: ipv6.disable=1 on its command line switches it off."""
    return _NO_IPV6.exists()


def _make() -> int:
    _check(_libc.unshare(_CLONE_NEWNET))
    if has_ipv6():
        _NO_IPV6.write_text("1", encoding="ascii")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _alone(work: Callable[[], _T]) -> _T:
    """Do the work in a thread of its own: the thread can change its namespace, and need not return to the old one."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(work).result()


def _check(status: int) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

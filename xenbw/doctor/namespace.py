"""Network namespaces without names: held by a file descriptor of this process, and gone when it is, however it ends."""

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
    """A network in which something can be done."""

    def do(self, work: Callable[[], _T]) -> _T: ...


class Here:
    """The network of this process."""

    def do(self, work: Callable[[], _T]) -> _T:
        return work()


class Namespace:
    """A network of its own, empty and without IPv6, which would talk unasked. Raises OSError."""

    def __init__(self) -> None:
        self._file = _alone(_make)

    @property
    def path(self) -> str:
        """What `ip link ... netns` takes for it."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def do(self, work: Callable[[], _T]) -> _T:
        """The result of `work`, done there: its sockets and the commands it starts belong there, and stay there."""

        def enter() -> _T:
            _check(_libc.setns(self._file, _CLONE_NEWNET))
            return work()

        return _alone(enter)

    def close(self) -> None:
        os.close(self._file)


def has_ipv6() -> bool:
    """Whether the kernel speaks it: some are told not to when they boot (ipv6.disable=1)."""
    return _NO_IPV6.exists()


def _make() -> int:
    _check(_libc.unshare(_CLONE_NEWNET))
    if has_ipv6():
        _NO_IPV6.write_text("1", encoding="ascii")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _alone(work: Callable[[], _T]) -> _T:
    """Do it in a thread that ends with it: a thread can leave its namespaces, and need not find its way back."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(work).result()


def _check(status: int) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

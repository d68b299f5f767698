"""What goes on, or has to hold, all the time that something is done to the package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def repeating(work: Callable[[], object]) -> Iterator[None]:
    """Do `work` over and over until the context ends, at least once; what it raises, the context raises at its end."""
    ending = threading.Event()

    def repeat() -> int:
        times = 0
        while not ending.is_set():
            work()
            times += 1
        return times

    with ThreadPoolExecutor(1) as pool:
        times = pool.submit(repeat)
        try:
            yield
        finally:
            ending.set()
        assert times.result() > 0


@contextmanager
def throughout(claim: Callable[[], bool]) -> Iterator[None]:
    """Ask again and again whether it holds until the context ends, which fails if it ever did not."""

    def check() -> None:
        assert claim()

    with repeating(check):
        yield

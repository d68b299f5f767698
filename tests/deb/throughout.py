"""Work or checks that are repeated while a test changes the package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def repeating(work: Callable[[], object]) -> Iterator[None]:
    """Repeat `work` until the context ends, at least once; the context raises work's exception at its end."""
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
    """Check again and again until the context ends that the claim is true; the context fails if it ever was not."""

    def check() -> None:
        assert claim()

    with repeating(check):
        yield

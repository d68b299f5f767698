"""Kill a process at any line: what a power cut or kill -9 may leave behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import FrameType, ModuleType


class _Killer:
    """Kills its own process with SIGKILL at the n-th line that runs in these modules."""

    def __init__(self, at: int, modules: Iterable[ModuleType]) -> None:
        self._left, self._files = at, frozenset(module.__file__ for module in modules)

    def __call__(self, frame: FrameType, event: str, _argument: object) -> _Killer | None:
        if frame.f_code.co_filename not in self._files:
            return None
        if event == "line":
            self._left -= 1
            if self._left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def killed_at(line: int, modules: Iterable[ModuleType], work: Callable[[], object]) -> bool:
    """Do the work in a process that dies at the n-th line (n is `line`) that runs in these modules. Returns whether it
    got that far."""
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            sys.settrace(_Killer(line, modules))
            work()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

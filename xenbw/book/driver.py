"""MongoDB's driver, imported by one thread at a time. Two threads at once could each see half of it: its bson imports
itself in a circle, and Python shows a thread an incomplete module rather than let it wait for ever."""

from __future__ import annotations

import importlib
import threading

from xenbw.errors import XenbwError

_TURN = threading.Lock()


def load() -> None:
    """Import pymongo, which takes 28 MB and a tenth of a second, so only with a book. Raises XenbwError."""
    with _TURN:
        try:
            importlib.import_module("pymongo")
        except ImportError as error:
            raise XenbwError(f"MongoDB's driver cannot be used: {error}", "apt install python3-pymongo") from None

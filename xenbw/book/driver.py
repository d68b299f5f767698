"""MongoDB's driver, imported by one thread at a time: two at once may each see a half of it (its bson imports itself in
a circle, and Python lets a thread see such a module before it is complete rather than wait for ever)."""

from __future__ import annotations

import importlib
import threading

from xenbw.errors import XenbwError

_TURN = threading.Lock()


def load() -> None:
    """Import pymongo, which is 28 MB and a tenth of a second: only for who has a book. Raises XenbwError."""
    with _TURN:
        try:
            importlib.import_module("pymongo")
        except ImportError as error:
            raise XenbwError(f"MongoDB's driver cannot be used: {error}", "apt install python3-pymongo") from None

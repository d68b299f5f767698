"""A connection to xenstored whose failures are XenbwErrors, with a message for the admin."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from xenbw.errors import XenbwError
from xenbw.xen.wire import RefusedError, Wire

_T = TypeVar("_T")


class StoreError(XenbwError):
    """xenstored is not there, went away, gave no answer in time, or refused to answer."""


class Connection:
    """A connection to the xenstored that listens at `path`. A deadline is a time.monotonic() value.

    Every call raises StoreError; after one that is no refusal, the connection is closed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._wire = Wire(path)
        except OSError as error:
            raise StoreError(
                f"{path}: cannot reach xenstored: {error.strerror or error}", "systemctl status xen.service says more"
            ) from None

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._wire.close()

    def read(self, path: str, deadline: float) -> str | None:
        """The value at `path`, None when there is no such node."""
        return self._answer(self._wire.read, path, deadline)

    def owner(self, path: str, deadline: float) -> int | None:
        """The domid that owns the node at `path`, None when there is no such node."""
        return self._answer(self._wire.owner, path, deadline)

    def children(self, path: str, deadline: float) -> list[bytes]:
        """The names of the nodes below `path`; none when there is no such node."""
        return self._answer(self._wire.children, path, deadline)

    def _answer(self, ask: Callable[[str, float], _T], path: str, deadline: float) -> _T:
        try:
            return ask(path, deadline)
        except RefusedError as refusal:
            raise StoreError(f"xenstored refuses to read {path!r}: {refusal.code}") from None
        except OSError as error:
            raise StoreError(f"{self._path}: no answer from xenstored: {error}") from None

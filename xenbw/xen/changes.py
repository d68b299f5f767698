"""Changes of xenstore, each in one transaction: all of its nodes change at once, or none does."""

from __future__ import annotations

import time
from collections.abc import Callable

from xenbw.text import decode
from xenbw.xen.wire import GET_PERMS, READ, RefusedError, Wire

# xs_wire.h, enum xsd_sockmsg_type
_TRANSACTION_START, _TRANSACTION_END, _WRITE, _RM, _SET_PERMS = 6, 7, 11, 13, 14
_COMMIT, _ABORT = "T", "F"

Ask = Callable[[int, str, bytes], bytes | None]


class Transaction:
    """xenstore inside one transaction: as it was at the beginning, with the changes made here. Calls raise OSError."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def read(self, path: str) -> str | None:
        """The value at `path`, None when there is no such node."""
        value = self._ask(READ, path, b"")
        return None if value is None else decode(value)

    def permissions(self, path: str) -> tuple[str, ...] | None:
        """A node's permissions, such as ("n0", "r7"), None when there is no such node. The first entry has the owner,
        and the access of all domains that are not in another entry (docs/misc/xenstore.txt, GET_PERMS)."""
        answer = self._ask(GET_PERMS, path, b"")
        return None if answer is None else tuple(decode(entry) for entry in answer.split(b"\0") if entry)

    def owner(self, path: str) -> int | None:
        """The domid that owns the node at `path`, None when there is no such node."""
        found = self.permissions(path)
        return int(found[0][1:]) if found and found[0][1:].isdigit() else None

    def write(self, path: str, value: str) -> None:
        """Set a value; a missing node is made, with the permissions of the node above it."""
        self._ask(_WRITE, path, value.encode())

    def permit(self, path: str, permissions: tuple[str, ...]) -> None:
        """Set a node's permissions."""
        self._ask(_SET_PERMS, path, b"".join(entry.encode() + b"\0" for entry in permissions))

    def remove(self, path: str) -> None:
        """Remove a node and all below it; a missing node is no error."""
        self._ask(_RM, path, b"")


class Changer(Wire):
    """A connection to xenstored for changes."""

    def change(self, work: Callable[[Transaction], None], deadline: float) -> None:
        """Do the work in a transaction, and again if other programs changed the nodes that it read or wrote, until the
        deadline. Raises OSError; then nothing was changed, or the connection is closed."""
        while True:
            number = self._begin(deadline)
            try:
                work(self._inside(number, deadline))
            except RefusedError:
                self._ask(_TRANSACTION_END, _ABORT, deadline, transaction=number)
                raise
            try:
                self._ask(_TRANSACTION_END, _COMMIT, deadline, transaction=number)
            except RefusedError as refusal:
                if refusal.code != "EAGAIN" or time.monotonic() >= deadline:
                    raise
            else:
                return

    def _begin(self, deadline: float) -> int:
        """Start a transaction. Returns its number."""
        number = (self._ask(_TRANSACTION_START, "", deadline) or b"").rstrip(b"\0")
        if not number.isdigit():
            raise self._broken("gave a transaction no number")
        return int(number)

    def _inside(self, number: int, deadline: float) -> Transaction:
        return Transaction(lambda operation, path, argument: self._ask(operation, path, deadline, argument, number))

"""Xen's own xenstore client, called through ctypes: what the toolstack would read, write and hear.

The library is part of Debian's libxenstore4 and needs no hypervisor. Prototypes: tools/include/xenstore.h. What it
allocates is never freed: a test asks little.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

LIBRARY = "libxenstore.so.4"
_POINTER, _STRING, _NUMBER, _BOOL = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32, ctypes.c_bool
_STRINGS = ctypes.POINTER(ctypes.c_char_p)
_ACCESS = "nrwb"  # enum xs_perm_type: none, read, write, both


class _Permission(ctypes.Structure):
    _fields_ = (("id", ctypes.c_uint), ("access", ctypes.c_int))


_PROTOTYPES = {
    "xs_open": (_POINTER, [ctypes.c_ulong]),
    "xs_close": (None, [_POINTER]),
    "xs_read": (_POINTER, [_POINTER, _NUMBER, _STRING, _POINTER]),
    "xs_write": (_BOOL, [_POINTER, _NUMBER, _STRING, _STRING, ctypes.c_uint]),
    "xs_mkdir": (_BOOL, [_POINTER, _NUMBER, _STRING]),
    "xs_rm": (_BOOL, [_POINTER, _NUMBER, _STRING]),
    "xs_directory": (_STRINGS, [_POINTER, _NUMBER, _STRING, _POINTER]),
    "xs_get_permissions": (ctypes.POINTER(_Permission), [_POINTER, _NUMBER, _STRING, _POINTER]),
    "xs_get_domain_path": (_STRING, [_POINTER, ctypes.c_uint]),
    "xs_watch": (_BOOL, [_POINTER, _STRING, _STRING]),
    "xs_unwatch": (_BOOL, [_POINTER, _STRING, _STRING]),
    "xs_read_watch": (_STRINGS, [_POINTER, _POINTER]),
    "xs_transaction_start": (_NUMBER, [_POINTER]),
    "xs_transaction_end": (_BOOL, [_POINTER, _NUMBER, _BOOL]),
}


class Libxenstore:
    """A connection to the xenstored that $XENSTORED_PATH names. What xenstored refuses is an OSError with its errno."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(LIBRARY, use_errno=True)
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(self._lib, name)
            function.restype, function.argtypes = result, arguments
        self._handle = self._lib.xs_open(0)
        self._transaction = 0
        self._checked(self._handle)

    def close(self) -> None:
        self._lib.xs_close(self._handle)

    def read(self, path: bytes) -> bytes:
        size = ctypes.c_uint()
        value = self._checked(self._lib.xs_read(self._handle, self._transaction, path, ctypes.byref(size)))
        return ctypes.string_at(value, size.value)

    def write(self, path: bytes, value: bytes) -> None:
        self._checked(self._lib.xs_write(self._handle, self._transaction, path, value, len(value)))

    def mkdir(self, path: bytes) -> None:
        self._checked(self._lib.xs_mkdir(self._handle, self._transaction, path))

    def rm(self, path: bytes) -> None:
        self._checked(self._lib.xs_rm(self._handle, self._transaction, path))

    def directory(self, path: bytes) -> list[bytes]:
        count = ctypes.c_uint()
        names = self._checked(self._lib.xs_directory(self._handle, self._transaction, path, ctypes.byref(count)))
        return [names[index] for index in range(count.value)]

    def permissions(self, path: bytes) -> list[str]:
        """As on the wire: "n0", "r7"."""
        count = ctypes.c_uint()
        found = self._checked(self._lib.xs_get_permissions(self._handle, self._transaction, path, ctypes.byref(count)))
        return [f"{_ACCESS[found[index].access]}{found[index].id}" for index in range(count.value)]

    def domain_path(self, domid: int) -> bytes:
        return bytes(self._checked(self._lib.xs_get_domain_path(self._handle, domid)))

    def watch(self, path: bytes, token: bytes) -> None:
        self._checked(self._lib.xs_watch(self._handle, path, token))

    def unwatch(self, path: bytes, token: bytes) -> None:
        self._checked(self._lib.xs_unwatch(self._handle, path, token))

    def event(self) -> tuple[bytes, bytes]:
        """The next event's path and token; waits for it."""
        event = self._checked(self._lib.xs_read_watch(self._handle, ctypes.byref(ctypes.c_uint())))
        return event[0], event[1]

    def begin(self) -> None:
        """Start a transaction, in which all is done until it ends."""
        self._transaction = self._checked(self._lib.xs_transaction_start(self._handle))

    def end(self, *, abort: bool = False) -> None:
        transaction, self._transaction = self._transaction, 0
        self._checked(self._lib.xs_transaction_end(self._handle, transaction, abort))

    @staticmethod
    def _checked(result: Any) -> Any:
        if not result:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

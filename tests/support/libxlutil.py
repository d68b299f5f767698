"""The toolstack's own config parser, called through ctypes: what xl itself would make of a config file.

The library is part of Debian's libxenmisc and needs no hypervisor; in libxen-dev its name has no version of Xen.
Prototypes: tools/include/libxlutil.h.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LIBRARY = "libxlutil.so"


@dataclass(frozen=True)
class Reading:
    """What the library holds after it accepted a config; an item that is itself a list is None."""

    name: bytes | None
    vif: tuple[bytes | None, ...] | None


class Libxlutil:
    """One loaded library; raises OSError when the package is not installed."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.fopen.restype = ctypes.c_void_p
        self._libc.fopen.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        self._libc.fclose.argtypes = [ctypes.c_void_p]
        self._lib = _load()

    def read(self, data: bytes) -> Reading | None:
        """`name` and `vif` of the config in `data`; None when the library refuses it."""
        with self._config() as config:
            if self._lib.xlu_cfg_readdata(config, data, len(data)) != 0:
                return None
            return Reading(self._string(config, b"name"), self._list(config, b"vif"))

    @contextmanager
    def _config(self) -> Iterator[int]:
        report = self._libc.fopen(os.devnull.encode(), b"w")
        config = self._lib.xlu_cfg_init(report, b"test")
        try:
            yield config
        finally:
            self._lib.xlu_cfg_destroy(config)
            self._libc.fclose(report)

    def _string(self, config: int, key: bytes) -> bytes | None:
        value = ctypes.c_char_p()
        failed = self._lib.xlu_cfg_get_string(config, key, ctypes.byref(value), 1)
        return None if failed else value.value

    def _list(self, config: int, key: bytes) -> tuple[bytes | None, ...] | None:
        items, count = ctypes.c_void_p(), ctypes.c_int()
        if self._lib.xlu_cfg_get_list(config, key, ctypes.byref(items), ctypes.byref(count), 1):
            return None
        return tuple(self._lib.xlu_cfg_get_listitem(items, entry) for entry in range(count.value))


def _load() -> ctypes.CDLL:
    lib = ctypes.CDLL(LIBRARY)
    pointer, string, integer = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    lib.xlu_cfg_init.restype, lib.xlu_cfg_init.argtypes = pointer, [pointer, string]
    lib.xlu_cfg_destroy.restype, lib.xlu_cfg_destroy.argtypes = None, [pointer]
    lib.xlu_cfg_readdata.argtypes = [pointer, string, integer]
    lib.xlu_cfg_get_string.argtypes = [pointer, string, pointer, integer]
    lib.xlu_cfg_get_list.argtypes = [pointer, string, pointer, pointer, integer]
    lib.xlu_cfg_get_listitem.restype, lib.xlu_cfg_get_listitem.argtypes = string, [pointer, integer]
    return lib

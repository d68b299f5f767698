"""nft(8)'s own library in this process: no batch costs the start of a program.

Declared by nftables/libnftables.h; the package libnftables1, on which nftables depends.
"""

from __future__ import annotations

import ctypes

from xenbw.net.counters import MeterError


class Library:
    """libnftables. Raises MeterError where it cannot be loaded."""

    def __init__(self) -> None:
        try:
            self._nft = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise MeterError(f"libnftables.so.1 cannot be loaded: {error}", "apt install libnftables1") from None
        self._nft.nft_ctx_new.restype = ctypes.c_void_p
        # musl has none, and gives back what is free by itself.
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)

    def apply(self, text: str) -> bool:
        """Carry out a whole batch, which happens wholly or not at all; whether it did. What nft says of it goes
        nowhere."""
        # One for each batch: what it has read of the host's rules goes with it.
        context = ctypes.c_void_p(self._nft.nft_ctx_new(0))
        try:
            self._nft.nft_ctx_buffer_output(context)
            self._nft.nft_ctx_buffer_error(context)
            return bool(self._nft.nft_run_cmd_from_buffer(context, text.encode("ascii")) == 0)
        finally:
            self._nft.nft_ctx_free(context)
            # A batch for a thousand interfaces takes 32 MB, which the C library would keep for the next.
            self._trim(0)

"""nft(8)'s own library in this process: no batch costs the start of a program.

Declared by nftables/libnftables.h; the package libnftables1, on which nftables depends.
"""

from __future__ import annotations

import ctypes

from xenbw.errors import MeterError
from xenbw.nft.pipe import in_a_line


class Library:
    """libnftables. Raises MeterError where it cannot be loaded."""

    def __init__(self) -> None:
        try:
            self._nft = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise MeterError(f"libnftables.so.1 cannot be loaded: {error}", "apt install libnftables1") from None
        self._nft.nft_ctx_new.restype = ctypes.c_void_p
        self._nft.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        # musl has none, and gives back what is free by itself.
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)

    def apply(self, text: str) -> str | None:
        """Carry out a whole batch, which happens wholly or not at all. None if it did, else what nft says against
        it."""
        # One for each batch: what it has read of the host's rules goes with it.
        context = ctypes.c_void_p(self._nft.nft_ctx_new(0))
        try:
            self._nft.nft_ctx_buffer_output(context)
            self._nft.nft_ctx_buffer_error(context)
            if self._nft.nft_run_cmd_from_buffer(context, text.encode("ascii")) == 0:
                return None
            # The line of a batch that it quotes then is always the first, whichever it means (seen with 1.0.6).
            said = (self._nft.nft_ctx_get_error_buffer(context) or b"").partition(b"\n")[0]
            return in_a_line(said) or "it does not say why"
        finally:
            self._nft.nft_ctx_free(context)
            # A batch for a thousand interfaces takes 32 MB, which the C library would keep for the next.
            self._trim(0)

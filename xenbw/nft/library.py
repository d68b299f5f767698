"""nft(8)'s library, called in this process, so that a batch does not cost the start of a program.

Declared in nftables/libnftables.h; Debian's package is libnftables1, on which nftables depends.
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
        # musl has no malloc_trim; it returns free memory by itself.
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)

    def apply(self, text: str) -> str | None:
        """Hand nft a batch, which is carried out as a whole or not at all. None if it was, else nft's error."""
        # A context for each batch: what it has cached of the host's rules is freed with it.
        context = ctypes.c_void_p(self._nft.nft_ctx_new(0))
        try:
            self._nft.nft_ctx_buffer_output(context)
            self._nft.nft_ctx_buffer_error(context)
            if self._nft.nft_run_cmd_from_buffer(context, text.encode("ascii")) == 0:
                return None
            # After its error nft quotes a line of the batch: always the first, whichever it means (seen with 1.0.6).
            error = (self._nft.nft_ctx_get_error_buffer(context) or b"").partition(b"\n")[0]
            return in_a_line(error) or "nft gives no reason"
        finally:
            self._nft.nft_ctx_free(context)
            # A batch for a thousand vifs takes 32 MB, which the C library would keep for the next one.
            self._trim(0)

"""Runs: 288 values of one span as one text, so that a year of them takes little room. Pure functions.

A run of five-minute values is a day (UTC), a run of hours 12 days. It has the amounts of each kind one after the other,
as numbers of 8 bytes: first the lowest bytes of all numbers, then the next, and so on, since the high bytes are mostly
zeros, which zlib makes small. base64 makes of it a text that `xenbw export` can write.
"""

from __future__ import annotations

import base64
import sys
import zlib
from array import array
from collections.abc import Iterable, Iterator

from xenbw.model import Amounts

LENGTH = 288
_WIDTH = 8
_KINDS = len(Amounts._fields)


def start_of(span: int, start: int) -> int:
    """When the run began in which the value from `start` on lies. Both in seconds since 1970."""
    return start - start % (span * LENGTH)


class Run:
    """The values of one run. start: of its first value, in seconds since 1970."""

    def __init__(self, span: int, start: int, text: str | None = None) -> None:
        """text: as `text` gave it, or None for a run without traffic. Raises ValueError for another text."""
        self.span, self.start = span, start
        self._numbers = array("Q", bytes(_WIDTH * LENGTH * _KINDS)) if text is None else _numbers(text)

    @property
    def end(self) -> int:
        """When the run ends, in seconds since 1970."""
        return self.start + self.span * LENGTH

    def add(self, values: Iterable[tuple[int, Amounts]]) -> None:
        """Add amounts to the values that begin at these times."""
        for start, amounts in values:
            at = (start - self.start) // self.span
            for kind, amount in enumerate(amounts):
                self._numbers[at + kind * LENGTH] += amount

    def values(self) -> Iterator[tuple[int, Amounts]]:
        """(start, amounts) of the values that are not zero, oldest first."""
        kinds = [self._numbers[kind * LENGTH : (kind + 1) * LENGTH] for kind in range(_KINDS)]
        for at, amounts in enumerate(zip(*kinds, strict=True)):
            if any(amounts):
                yield self.start + at * self.span, Amounts._make(amounts)

    def text(self) -> str:
        """The run as ASCII text."""
        raw = _little(self._numbers).tobytes()
        packed = zlib.compress(b"".join(raw[place::_WIDTH] for place in range(_WIDTH)))
        return base64.b64encode(packed).decode("ascii")


def _numbers(text: str) -> array[int]:
    unpacker = zlib.decompressobj()
    try:
        # No more than that is unpacked, whatever the text holds.
        packed = unpacker.decompress(base64.b64decode(text, validate=True), _WIDTH * LENGTH * _KINDS + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    places = len(packed) // _WIDTH
    if len(packed) != _WIDTH * LENGTH * _KINDS or not unpacker.eof:
        raise ValueError(f"not a run of {LENGTH * _KINDS} numbers")
    raw = bytearray(len(packed))
    for place in range(_WIDTH):
        raw[place::_WIDTH] = packed[place * places : (place + 1) * places]
    return _little(array("Q", bytes(raw)))


def _little(numbers: array[int]) -> array[int]:
    """The numbers in the byte order of the file, or back from it."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers

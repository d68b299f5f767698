"""Readings of our quota objects, close around each count of the VMs' usage: they show how far the two are apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from xenbw.errors import MeterError
from xenbw.nft.objects import Quota
from xenbw.nft.tables import Tables

T = TypeVar("T")

# How often counters are read again, to find a moment without traffic for each quota object that needs one.
_TRIES = 5


class Quotas:
    """The quota objects in the table that meters.

    before, after: as they were right before and right after the usage that is known now was counted; empty if that is
    not known. complete: whether that usage has all bytes of vifs that ended. unsettled: the names of those for which a
    count without traffic is still to be found. made: whether objects were made since the last count.
    """

    def __init__(self, tables: Tables, *, complete: bool = False) -> None:
        self._table, self.complete = tables.of(), complete
        self.before: Mapping[str, Quota] = {}
        self.after: Mapping[str, Quota] = {}
        self.unsettled: frozenset[str] = frozenset()
        self.made = False

    def now(self, names: Iterable[str] | None = None) -> dict[str, Quota]:
        """By name. names: read only these. Raises MeterError."""
        return self._table.quotas(names)

    def around(self, count: Callable[[], T]) -> T:
        """Count, and read the quota objects before and after. May raise what `count` raises."""
        self.made = False
        for _ in range(_TRIES):
            self.forget()
            before = self._read()
            counted = count()
            self.before, self.after = before, self._read()
            if all(self.before.get(name) == self.after.get(name) for name in self.unsettled):
                break
        return counted

    def forget(self) -> None:
        """What was counted last is not of the moment of these readings."""
        self.before = self.after = {}

    def _read(self) -> dict[str, Quota]:
        try:
            return self.now()
        except MeterError:
            return {}

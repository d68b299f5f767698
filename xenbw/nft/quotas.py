"""Readings of our quota objects. One before each count of the VMs' usage shows later how far the two are apart."""

from __future__ import annotations

from collections.abc import Mapping

from xenbw.errors import MeterError
from xenbw.nft.netlink import Quota
from xenbw.nft.tables import Tables


class Quotas:
    """The quota objects in the table that meters. before: as they were right before the usage that is known now was
    counted; empty if that is not known. complete: whether that usage has all bytes of vifs that ended."""

    def __init__(self, tables: Tables, *, complete: bool = False) -> None:
        self._table, self.complete = tables.of(), complete
        self.before: Mapping[str, Quota] = {}

    def now(self) -> dict[str, Quota]:
        """By name. Raises MeterError."""
        return self._table.quotas()

    def look(self) -> Mapping[str, Quota]:
        """Read them; call it right before a count. Without an answer there are none."""
        try:
            self.before = self.now()
        except MeterError:
            self.before = {}
        return self.before

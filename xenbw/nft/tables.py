"""Our nft tables: the batches that change them, and reading them by netlink."""

from __future__ import annotations

from collections.abc import Callable

from xenbw.nft.links import Links
from xenbw.nft.netlink import NETDEV, Table
from xenbw.nft.nft import TABLE

Apply = Callable[[str], str | None]
"""apply(text): hand nft a batch, which is carried out as a whole or not at all. None if it was, else nft's error."""


class Tables:
    """The tables of xenbw in each family. apply: hands nft a batch. links: the interfaces that rules can be about."""

    def __init__(self, apply: Apply) -> None:
        self.apply, self.links = apply, Links()
        self._tables: dict[tuple[int, str], Table] = {}
        self._forgotten = 0

    def of(self, family: int = NETDEV, name: str = TABLE) -> Table:
        """A table of a family, by linux/netfilter.h's number."""
        return self._tables.setdefault((family, name), Table(name, family))

    def generation(self) -> tuple[int, int]:
        """A value that changes with each change of the host's nft rules, and with each `forget`. Raises MeterError."""
        return self._forgotten, self.of().generation()

    def forget(self) -> None:
        """Another program changed the rules: have them read again. The kernel raises the generation before the changed
        rules can be read, so the generation alone is not enough."""
        self._forgotten += 1

    def close(self) -> None:
        self.links.close()
        for table in self._tables.values():
            table.close()

"""What blocked VMs may reach all the same: their resolver, and the panel that tells why.

The hook uses this at each boot of a VM, so it imports next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


class Exceptions:
    """Networks as text. common: for every VM but those in `own`, which have theirs instead, be it nothing. VMs are
    known by their names or by their ids, as it suits whoever asks."""

    __slots__ = ("common", "own")

    def __init__(self, common: Iterable[str] = (), own: Mapping[Any, Iterable[str]] | None = None) -> None:
        self.common = list(common)
        self.own: dict[Any, list[str]] = {vm: list(networks) for vm, networks in (own or {}).items()}

    def of(self, vm: Any) -> tuple[str, ...]:
        """What this VM may reach."""
        return tuple(self.own.get(vm, self.common))

    def __bool__(self) -> bool:
        return bool(self.common) or any(self.own.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exceptions) and (self.common, self.own) == (other.common, other.own)

    __hash__ = None  # type: ignore[assignment]

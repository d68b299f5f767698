"""The addresses that blocked VMs may still reach, such as a resolver and the panel that says why they are blocked.

The hook uses this module at each boot of a VM, so it imports next to nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any


class Exceptions:
    """The networks that VMs may reach while they are blocked, as text.

    own: lists of single VMs, possibly empty, by VM name or VM id as the caller chooses. common: the list of all others.
    """

    __slots__ = ("common", "own")

    def __init__(self, common: Iterable[str] = (), own: Mapping[Any, Iterable[str]] | None = None) -> None:
        self.common = list(common)
        self.own: dict[Any, list[str]] = {vm: list(networks) for vm, networks in (own or {}).items()}

    def of(self, vm: Any) -> tuple[str, ...]:
        """The networks that this VM may reach."""
        return tuple(self.own.get(vm, self.common))

    def __bool__(self) -> bool:
        return bool(self.common) or any(self.own.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exceptions) and (self.common, self.own) == (other.common, other.own)

    __hash__ = None  # type: ignore[assignment]

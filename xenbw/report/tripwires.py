"""A VM's tripwires: what the kernel has left of the VM's allowance, beside what the ledger says."""

from __future__ import annotations

from typing import NamedTuple


class Held(NamedTuple):
    """One line of the allowance. kind: "trip" (past it traffic is refused) or "slow" (throttled). counted: "total",
    "in" or "out". left_bytes: that may still pass on this host by the kernel, None if it holds no such line;
    ledger_left_bytes: by the ledger."""

    kind: str
    counted: str
    left_bytes: int | None
    ledger_left_bytes: int

    @property
    def apart_bytes(self) -> int:
        """How many bytes more the kernel has left than the ledger; 0 at rest."""
        return 0 if self.left_bytes is None else self.left_bytes - self.ledger_left_bytes

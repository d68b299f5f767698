"""One VM as every listing shows it: its settings, its present period, its usage and its state."""

from __future__ import annotations

from dataclasses import dataclass

from xenbw.model import VM, Allowance, Counters, Period, State
from xenbw.quota import Standing
from xenbw.units import format_size


@dataclass(frozen=True)
class Account:
    """A VM with its allowance and its usage in its present period."""

    vm: VM
    allowance: Allowance
    period: Period
    usage: Counters
    standing: Standing
    running: bool

    @property
    def unmetered(self) -> bool:
        """Whether this dom0 sees none of the VM's present traffic, so that its usage says little."""
        return self.standing.state is State.UNMETERED

    @property
    def used_bytes(self) -> int:
        """The part of the usage that the allowance counts."""
        return self.standing.verdict.used_bytes

    @property
    def over(self) -> bool:
        """Whether it has used up its allowance, or its hard limit if it has no other, whatever its state."""
        return self.standing.verdict.state is State.OVER

    @property
    def percent(self) -> float | None:
        """used_bytes in percent of the limit, with one decimal; None without a limit."""
        limit = self.allowance.limit_bytes
        return None if limit is None else round(self.used_bytes * 100 / limit, 1)

    def size(self, size: int) -> str:
        """A size of its usage, or "-" for 0 bytes if it is not metered: its real usage is unknown."""
        return "-" if self.unmetered and size == 0 else format_size(size)

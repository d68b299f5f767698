"""One VM as every listing shows it: its row, its present period, its usage and what they come to."""

from __future__ import annotations

from dataclasses import dataclass

from xenbw.model import VM, Allowance, Counters, Period, State
from xenbw.quota import Standing


@dataclass(frozen=True)
class Account:
    """A VM with the allowance that holds for it and its usage in its present period."""

    vm: VM
    allowance: Allowance
    period: Period
    usage: Counters
    standing: Standing
    running: bool

    @property
    def unmetered(self) -> bool:
        """Whether nothing of its present traffic is seen here, so that its usage says little."""
        return self.standing.state is State.UNMETERED

    @property
    def used_bytes(self) -> int:
        """What of the usage the allowance counts."""
        return self.standing.verdict.used_bytes

    @property
    def percent(self) -> float | None:
        """used of the limit, with one decimal; None where there is no limit."""
        limit = self.allowance.limit_bytes
        return None if limit is None else round(self.used_bytes * 100 / limit, 1)

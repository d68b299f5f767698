"""The daemon's state, for the control socket and systemctl status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from xenbw.clock import Trust
from xenbw.ledger import kept
from xenbw.meters.metering import Metering
from xenbw.model import Entry, State
from xenbw.units import format_time


@dataclass(frozen=True)
class Status:
    """The daemon's state. interfaces: how many vifs are metered. pending: how many vifs have no known VM yet.
    tripwires: how many VMs' allowances the kernel holds. throttle_problem: why no VM can be throttled on
    this host, or None. method: by what addresses are null-routed. floods: the VMs that flood now."""

    started_at: datetime
    metering: Metering
    entries: Mapping[int, Entry]
    interfaces: int
    pending: int
    null_routes: int
    tripwires: int
    problems: Iterable[str]
    committed_at: datetime | None
    trust: Trust
    throttle_problem: str | None
    method: str
    floods: Sequence[str]

    def document(self) -> dict[str, Any]:
        """The state as the control socket's answer."""
        return {
            "started_at": format_time(self.started_at),
            "meter": self.metering.meter.name,
            "meter_reason": self.metering.reason,
            "meter_gaps": self.metering.gaps,
            "vms": len(self.entries),
            "interfaces": self.interfaces,
            "over": self._count(State.OVER),
            "warned": self._count(State.WARNED),
            "blocked": self._count(State.BLOCKED),
            "throttled": self._count(State.THROTTLED),
            "throttle_problem": self.throttle_problem,
            "null_routes": self.null_routes,
            "tripwires": self.tripwires,
            "null_route_method": self.method,
            "floods": list(self.floods),
            "problems": [*self.problems, *self._kept()],
            "last_commit": format_time(self.committed_at) if self.committed_at else None,
            "pending_vifs": self.pending,
            "clock_trusted": self.trust is not Trust.DOUBTED,
            "clock": self.trust.value,
        }

    def summary(self) -> str:
        """The state in a line, for systemctl status."""
        text = f"{self.interfaces} vifs of {len(self.entries)} VMs metered ({self.metering.meter.name})"
        text += f", {self._count(State.OVER)} over, {self._count(State.THROTTLED)} throttled"
        text += f", {self.null_routes} addresses null-routed"
        problems = len(list(self.problems))
        return text + (f"; {problems} problems: xenbw status" if problems else "")

    def _count(self, state: State) -> int:
        return sum(entry.vm.state is state for entry in self.entries.values())

    def _kept(self) -> list[str]:
        names = sorted(one.vm.name for one in self.entries.values() if one.vm.blocked_reason == kept.REASON)
        return [f"{', '.join(names)}: {kept.REASON}"] if names else []

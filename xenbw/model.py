"""The values everyone shares. Frozen; bytes are integers, times are aware UTC datetimes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

Address = IPv4Address | IPv6Address


class Count(StrEnum):
    """How an allowance is counted."""

    TOTAL = "total"
    IN = "in"
    OUT = "out"
    MAX = "max"


class Action(StrEnum):
    """What happens to a VM that passes its allowance."""

    BLOCK = "block"
    WARN = "warn"


class State(StrEnum):
    """Where a VM stands, as every screen shows it."""

    OK = "ok"
    WARNED = "warned"
    OVER = "over"
    BLOCKED = "blocked"  # by the admin, whatever its usage
    EXEMPT = "exempt"  # over, but lifted by the admin until its period ends
    UNLIMITED = "unlimited"
    UNMETERED = "unmetered"


class Cause(StrEnum):
    """Why a VM is blocked."""

    QUOTA = "quota"
    ADMIN = "admin"


class Kind(StrEnum):
    """What a guest's interface is: its netback vif, or the tap QEMU gives an HVM guest beside it."""

    VIF = "vif"
    EMU = "emu"


class Counters(NamedTuple):
    """Bytes to the guest and from it. What dom0 sends on a vif (tx) goes in; what it receives (rx) came out."""

    in_bytes: int
    out_bytes: int

    def plus(self, other: Counters) -> Counters:
        return Counters(self.in_bytes + other.in_bytes, self.out_bytes + other.out_bytes)


ZERO = Counters(0, 0)


@dataclass(frozen=True)
class Period:
    """One billing month: start belongs to it, end to the next."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Allowance:
    """What a VM may use in a period and how that is held. limit_bytes None: unlimited."""

    limit_bytes: int | None = None
    count: Count = Count.TOTAL
    warn_percent: int = 80
    action: Action = Action.BLOCK
    reset_day: int = 1


@dataclass(frozen=True)
class VM:
    """A row of its own with an allowance; found by its name as `xl list` prints it.

    added_at None: nobody added it, it was found running; fields left None follow the config's [default].
    period_rule says by which reset day and zone period_start was reckoned, so that a change of rule is told
    from the passing of time.
    """

    id: int
    name: str
    found_at: datetime
    added_at: datetime | None = None
    limit_bytes: int | None = None
    unlimited: bool = False
    count: Count | None = None
    warn_percent: int | None = None
    action: Action | None = None
    reset_day: int | None = None
    ips: tuple[Address, ...] = ()
    config_file: str | None = None
    period_start: datetime | None = None
    period_rule: str | None = None
    state: State = State.OK
    state_reason: str = ""
    state_since: datetime | None = None
    blocked_reason: str | None = None  # by the admin
    lifted_until: datetime | None = None


@dataclass(frozen=True)
class Binding:
    """One life of one interface of a VM.

    last: the raw counters at last_at, from which the next reading is reckoned; counted: what has been credited.
    (boot_id, ifindex) is its identity; interface is only its present name.
    """

    id: int
    vm_id: int
    boot_id: str
    domid: int
    devid: int
    kind: Kind
    ifindex: int
    interface: str
    started_at: datetime
    mac: str | None = None
    ips: tuple[Address, ...] = ()
    bridge: str | None = None
    ended_at: datetime | None = None
    end_reason: str | None = None
    counted: Counters = ZERO
    last: Counters = ZERO
    last_at: datetime | None = None


@dataclass(frozen=True)
class Block:
    """One block of a VM, from its announcement to its lifting."""

    vm_id: int
    cause: Cause
    reason: str
    since: datetime
    until: datetime | None
    lifted_at: datetime | None = None
    lift_reason: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What the allowance says of the usage, with the reason in words."""

    state: State
    used_bytes: int
    limit_bytes: int | None
    reason: str

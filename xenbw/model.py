"""The values that all modules share. They are frozen; bytes are integers, times are aware UTC datetimes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time
from enum import IntEnum, StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple
from zoneinfo import ZoneInfo

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Life(NamedTuple):
    """One life of one vif, for as long as this host is up."""

    domid: int
    devid: int
    ifindex: int


class Count(StrEnum):
    """How an allowance is counted."""

    TOTAL = "total"
    IN = "in"
    OUT = "out"
    MAX = "max"


class Action(StrEnum):
    """What happens to a VM that uses more than its allowance."""

    BLOCK = "block"
    WARN = "warn"
    THROTTLE = "throttle"


class State(StrEnum):
    """The state of a VM, as every screen shows it."""

    OK = "ok"
    WARNED = "warned"
    OVER = "over"
    THROTTLED = "throttled"  # over, and held to its rates
    BLOCKED = "blocked"  # by the admin, whatever its usage
    EXEMPT = "exempt"  # over, but lifted by the admin until its period ends
    UNLIMITED = "unlimited"
    UNMETERED = "unmetered"


class Cause(StrEnum):
    """Why a VM is blocked."""

    QUOTA = "quota"
    ADMIN = "admin"


class Kind(StrEnum):
    """The kind of a guest's interface: its netback vif, or the tap that QEMU adds for an HVM guest."""

    VIF = "vif"
    EMU = "emu"


class Counters(NamedTuple):
    """Bytes to the guest (in; a vif's tx in dom0) and from it (out; a vif's rx)."""

    in_bytes: int
    out_bytes: int

    def plus(self, other: Counters) -> Counters:
        return Counters(self.in_bytes + other.in_bytes, self.out_bytes + other.out_bytes)


ZERO = Counters(0, 0)


class Amounts(NamedTuple):
    """xenbw's own counters on an interface: usage to the guest and from it, bytes of frames for others that a bridge
    flooded to it, and bytes that a block refused."""

    in_bytes: int
    out_bytes: int
    flood_bytes: int = 0
    refused_in_bytes: int = 0
    refused_out_bytes: int = 0

    @property
    def usage(self) -> Counters:
        return Counters(self.in_bytes, self.out_bytes)

    @property
    def everything(self) -> Counters:
        """All bytes that the kernel's own counters of the interface have too: what is refused on its way to the guest
        never reaches the interface (net/core/dev.c, __dev_queue_xmit: netfilter's egress hook comes first)."""
        return Counters(self.in_bytes + self.flood_bytes, self.out_bytes + self.refused_out_bytes)

    def plus(self, other: Amounts) -> Amounts:
        # Each field by name: this runs for every vif each second, and a loop takes twice as long.
        return Amounts(
            self.in_bytes + other.in_bytes,
            self.out_bytes + other.out_bytes,
            self.flood_bytes + other.flood_bytes,
            self.refused_in_bytes + other.refused_in_bytes,
            self.refused_out_bytes + other.refused_out_bytes,
        )

    def since(self, earlier: Amounts) -> Amounts | None:
        """What was counted since `earlier`, or None if the counters started again."""
        grown = [now - before for now, before in zip(self, earlier, strict=True)]
        return None if min(grown) < 0 else Amounts(*grown)


NOTHING = Amounts(0, 0)


class Span(IntEnum):
    """How long a time a value of the history covers, in seconds; a month and a year have their mean length here."""

    FIVE_MINUTES = 300
    HOUR = 3600
    DAY = 86_400
    MONTH = 2_629_746
    YEAR = 31_556_952


class Cell(NamedTuple):
    """What was counted for one VM in the span from `start` on."""

    span: Span
    start: datetime
    amounts: Amounts


class Reading(NamedTuple):
    """One look at an interface: the kernel's raw counters (None: the interface is gone) and xenbw's own in nft (None:
    it has none)."""

    kernel: Counters | None
    own: Amounts | None = None


class Mark(NamedTuple):
    """An interface's counters at the last reading that was credited.

    kernel: its raw counters. own: xenbw's own counters, None if there were none. ahead: how far the kernel's counters
    are ahead of xenbw's when no frame is in between, which bridges a loss of xenbw's counters.
    """

    kernel: Counters
    own: Amounts | None = None
    ahead: Counters = ZERO


UNREAD = Mark(ZERO)


@dataclass(frozen=True)
class Period:
    """One billing month: start belongs to it, end to the next period."""

    start: datetime
    end: datetime


class Rates(NamedTuple):
    """Bits per second to the guest and from it."""

    in_bits: int
    out_bits: int


@dataclass(frozen=True)
class Allowance:
    """How much a VM may use in a period, and what happens when it uses more. limit_bytes None: unlimited.

    rate: bits per second to which it is throttled, each way; rate_in: to the guest, where that is another.
    thresholds: percent of the limit at which the admin is warned, lowest first.
    hard_limit_bytes: past it the VM is blocked, whatever its action.
    """

    limit_bytes: int | None = None
    count: Count = Count.TOTAL
    thresholds: tuple[int, ...] = (80,)
    action: Action = Action.BLOCK
    reset_day: int = 1
    rate: int | None = None
    rate_in: int | None = None
    hard_limit_bytes: int | None = None

    @property
    def rates(self) -> Rates | None:
        """The rates of a throttle, if there is a rate."""
        return None if self.rate is None else Rates(self.rate_in or self.rate, self.rate)


class Quiet(NamedTuple):
    """A span of every day, by the wall clock of a time zone; it can contain midnight."""

    start: time
    end: time

    def covers(self, moment: datetime, zone: ZoneInfo) -> bool:
        now = moment.astimezone(zone).time()
        if self.start < self.end:
            return self.start <= now < self.end
        return now >= self.start or now < self.end


@dataclass(frozen=True)
class VM:
    """A VM with its settings; its name is the one that `xl list` prints.

    added_at None: nobody added the VM, it was found running. For settings that are None the config's [default] applies.
    hard_limit_bytes 0: none, whatever [default] says.
    warn_percent: its first threshold; warn_percents: all of them, if it has several.
    threshold: the highest threshold that its usage had reached when it was judged; None: not recorded yet.
    forecast_at: when it will cross its allowance, as the admin was last told in this period.
    allow: the networks that it may reach while it is blocked; for None [enforce] allow applies.
    mail: the addresses of its tenant, who gets the mails about this VM; None: nobody but the admin does.
    period_rule: the reset day and zone from which period_start was computed, so that a changed rule is distinguished
    from the start of a new period.
    """

    id: int
    name: str
    found_at: datetime
    added_at: datetime | None = None
    limit_bytes: int | None = None
    unlimited: bool = False
    count: Count | None = None
    warn_percent: int | None = None
    warn_percents: tuple[int, ...] | None = None
    action: Action | None = None
    reset_day: int | None = None
    rate: int | None = None
    rate_in: int | None = None
    hard_limit_bytes: int | None = None
    allow: tuple[Network, ...] | None = None
    mail: tuple[str, ...] | None = None
    ips: tuple[Address, ...] = ()
    config_file: str | None = None
    period_start: datetime | None = None
    period_rule: str | None = None
    state: State = State.OK
    state_reason: str = ""
    state_since: datetime | None = None
    blocked_reason: str | None = None  # by the admin
    lifted_until: datetime | None = None
    threshold: int | None = None
    forecast_at: datetime | None = None

    @property
    def thresholds(self) -> tuple[int, ...] | None:
        """Its own thresholds, lowest first, or None. An older xenbw changes warn_percent alone, so a list that does not
        begin with it no longer holds."""
        if self.warn_percents and self.warn_percents[0] == self.warn_percent:
            return self.warn_percents
        return (self.warn_percent,) if self.warn_percent else None


@dataclass(frozen=True)
class Binding:
    """One life of one interface of a VM.

    mark: its counters at last_at, with which the next reading is compared. counted: the credited usage, and the flood
    and refused bytes.
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
    counted: Amounts = NOTHING
    mark: Mark = UNREAD
    last_at: datetime | None = None

    @property
    def key(self) -> Life:
        return Life(self.domid, self.devid, self.ifindex)


@dataclass(frozen=True)
class Digest:
    """Earlier lives of a VM's interfaces, summed up.

    started_at: when the first life began. ended_at: when the last one ended. counted: their usage in a period, and the
    flood and refused bytes of these lives.
    """

    lives: int
    started_at: datetime
    ended_at: datetime
    end_reason: str
    ips: tuple[Address, ...]
    counted: Amounts


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
    """The usage compared with the allowance, with the reason in words. threshold: the highest threshold that the usage
    has reached, in percent; 0: none."""

    state: State
    used_bytes: int
    limit_bytes: int | None
    reason: str
    threshold: int = 0


@dataclass(frozen=True)
class Entry:
    """One VM with its allowance and period. enforced: whether going over the allowance may block it."""

    vm: VM
    allowance: Allowance
    enforced: bool
    period: Period
    elsewhere: Counters = ZERO  # usage on other hosts in this period, as far as the book reports it

    def used(self, here: Counters) -> Counters:
        """The VM's usage on all hosts in this period, of which `here` is on this one."""
        return here.plus(self.elsewhere)

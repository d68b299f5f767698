"""Compute periods and verdicts. All functions are pure."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from xenbw.model import VM, Action, Allowance, Cause, Count, Counters, Period, Rates, State, Verdict
from xenbw.units import format_rates, format_size


def _boundary(year: int, month: int, reset_day: int, zone: ZoneInfo) -> datetime:
    """Midnight of the reset day in its zone, as UTC; the 31st of a short month is that month's last day.

    If daylight saving skips this midnight, the result is the first instant after the gap; if it comes twice, the first
    one counts (PEP 495, fold=0).
    """
    day = min(reset_day, monthrange(year, month)[1])
    return datetime(year, month, day, tzinfo=zone).astimezone(UTC)


def period_at(moment: datetime, reset_day: int, zone: ZoneInfo) -> Period:
    """The period that contains moment. reset_day is 1..31."""
    local = moment.astimezone(zone)
    year, month = local.year, local.month
    this = _boundary(year, month, reset_day, zone)
    if moment >= this:
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        return Period(this, _boundary(year, month, reset_day, zone))
    year, month = (year, month - 1) if month > 1 else (year - 1, 12)
    return Period(_boundary(year, month, reset_day, zone), this)


def period_from(year: int, month: int, reset_day: int, zone: ZoneInfo) -> Period:
    """The period that begins in that month."""
    return period_at(_boundary(year, month, reset_day, zone), reset_day, zone)


def used_bytes(count: Count, usage: Counters) -> int:
    """The part of the usage that an allowance counts."""
    match count:
        case Count.TOTAL:
            return usage.in_bytes + usage.out_bytes
        case Count.IN:
            return usage.in_bytes
        case Count.OUT:
            return usage.out_bytes
        case Count.MAX:
            return max(usage)


FRAME = 65_536 + 32
"""Bytes of the largest frame, with offload: so many bytes below its allowance a VM can be and have no more to use."""
_COUNTED = {
    Count.TOTAL: "in and out together",
    Count.IN: "in",
    Count.OUT: "out",
    Count.MAX: "the larger of in and out",
}


def judge(allowance: Allowance, usage: Counters, *, spent: bool = False) -> Verdict:
    """Whether the usage is ok, warned, over or unlimited, and why. Over means *more* than the allowance, or that its
    tripwire ran out (spent): nothing is left of it, or the kernel refused a frame that would have passed it."""
    used, limit = used_bytes(allowance.count, usage), allowance.limit_bytes
    if limit is None:
        return Verdict(State.UNLIMITED, used, None, "no allowance is set")
    share = f"used {format_size(used)} of {format_size(limit)} ({_COUNTED[allowance.count]})"
    passed = "hard limit" if limit == allowance.hard_limit_bytes else "allowance"
    highest = allowance.thresholds[-1]
    if used > limit:
        return Verdict(State.OVER, used, limit, f"{share}: over its {passed} by {format_size(used - limit)}", highest)
    if spent and limit - used < FRAME:
        return Verdict(State.OVER, used, limit, f"{share}: used up its {passed}", highest)
    reached = max((percent for percent in allowance.thresholds if used * 100 >= limit * percent), default=0)
    if reached:
        return Verdict(State.WARNED, used, limit, f"{share}: past {reached} %", reached)
    return Verdict(State.OK, used, limit, share)


@dataclass(frozen=True)
class Standing:
    """The state of a VM: the verdict combined with the admin's decisions. block: why it must be blocked, or None.
    throttle: the rates to which it must be held, or None."""

    state: State
    reason: str
    verdict: Verdict
    block: Cause | None
    throttle: Rates | None = None


def stand(
    vm: VM,
    allowance: Allowance,
    enforced: bool,
    usage: Counters,
    period: Period,
    spent: Collection[str] = (),
) -> Standing:
    """A VM's standing. enforced False: going over the allowance neither blocks nor throttles it. spent: which of its
    tripwires ran out in the kernel: "slow" at its allowance if it is throttled there, "trip" where it is blocked.

    A lift is valid for the period in which it was given. It is compared with the period and not with the clock, so that
    a wrong clock ends no lift and no block.
    """
    held = _held_since(vm, period)
    line = _line(allowance, usage, spent="trip" in spent or held is State.OVER)
    verdict = judge(line, usage, spent=bool(spent) or held is not None)
    if vm.blocked_reason is not None:
        return Standing(State.BLOCKED, vm.blocked_reason or "blocked by the admin", verdict, Cause.ADMIN)
    if verdict.state is not State.OVER:
        return Standing(verdict.state, verdict.reason, verdict, None)
    if lifted(vm, period):
        return Standing(State.EXEMPT, f"{verdict.reason}; lifted until its period ends", verdict, None)
    if not enforced:
        return Standing(State.OVER, f"{verdict.reason}; nobody added this VM, so it is only metered", verdict, None)
    return _held(line, verdict)


def limits(allowance: Allowance) -> dict[str, int]:
    """The limits at which the kernel holds a VM: "slow" where it is throttled, "trip" where it is blocked."""
    found = {}
    limit, hard = allowance.limit_bytes, allowance.hard_limit_bytes
    if limit is not None and allowance.action is not Action.WARN:
        throttles = allowance.action is Action.THROTTLE and allowance.rates is not None
        found["slow" if throttles else "trip"] = limit
    if hard is not None:
        found["trip"] = min(hard, found.get("trip", hard))
    return found


def lifted(vm: VM, period: Period) -> bool:
    """Whether the admin lifted the VM's block until this period ends."""
    return vm.lifted_until is not None and vm.lifted_until >= period.end


def _held_since(vm: VM, period: Period) -> State | None:
    """The recorded state if the VM used up its allowance in this period: it is a frame short of it at most, and stays
    held although its tripwire was made anew, as after a boot."""
    held = vm.state in (State.OVER, State.THROTTLED, State.EXEMPT)
    return vm.state if held and vm.state_since is not None and vm.state_since >= period.start else None


def _held(allowance: Allowance, verdict: Verdict) -> Standing:
    """The standing of a VM that is over an allowance that is enforced."""
    if allowance.action is Action.WARN:
        return Standing(State.OVER, f"{verdict.reason}; its action is only to warn", verdict, None)
    rates = allowance.rates
    if allowance.action is Action.THROTTLE and rates is not None:
        reason = f"{verdict.reason}; throttled to {format_rates(rates)}"
        return Standing(State.THROTTLED, reason, verdict, None, rates)
    return Standing(State.OVER, verdict.reason, verdict, Cause.QUOTA)


def _line(allowance: Allowance, usage: Counters, *, spent: bool) -> Allowance:
    """The allowance that counts at this usage: past the hard limit, or where there is no other limit, the hard one.
    spent: whether a tripwire at which VMs are blocked ran out."""
    hard = allowance.hard_limit_bytes
    if hard is None:
        return allowance
    left = hard - used_bytes(allowance.count, usage)
    if allowance.limit_bytes is not None and left >= (FRAME if spent else 0):
        return allowance
    return replace(allowance, limit_bytes=hard, action=Action.BLOCK)


def as_seen(standing: Standing, unseen: str, *, wholly: bool) -> Standing:
    """The standing to show for a running VM whose traffic this dom0 does not see, wholly or in part, for the reason
    `unseen`. A block or an exceeded allowance is still shown; this changes no verdict."""
    if wholly and standing.state in (State.OK, State.WARNED, State.UNLIMITED):
        return replace(standing, state=State.UNMETERED, reason=unseen)
    return replace(standing, reason=f"{standing.reason}; not metered: {unseen}")


def ceiling(allowance: Allowance, state: State, threshold: int = 0) -> float:
    """The used bytes at which the state may change, or a threshold beyond `threshold` is reached: below them the VM
    need not be judged."""
    limits = [limit for limit in (allowance.limit_bytes, allowance.hard_limit_bytes) if limit is not None]
    if not limits:
        return float("inf")
    limit = min(limits)
    if state in (State.OK, State.WARNED):
        beyond = [-(-limit * percent // 100) for percent in allowance.thresholds if percent > threshold]
        return min([limit + 1, *beyond])
    hard = allowance.hard_limit_bytes
    return hard + 1 if hard is not None and state in (State.THROTTLED, State.OVER, State.UNLIMITED) else float("inf")

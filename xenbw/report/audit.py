"""Our numbers beside independent ones: what passed an interface in its life, by us, by the kernel and by xentop.

Nothing stands still for it. So ours are taken twice, before and after the others; only what lies outside of the two is
drift.
"""

from __future__ import annotations

from dataclasses import dataclass

from xenbw.model import Binding, Counters, Kind


@dataclass(frozen=True)
class Audited:
    """A live interface. before, after: all that we counted on it (usage, floods and what was refused), before and after
    the others were asked; None is what these could not tell."""

    binding: Binding
    before: Counters
    after: Counters
    kernel: Counters | None
    xentop: Counters | None


@dataclass(frozen=True)
class Audit:
    """apart: seconds between the two looks at ours. stale: why ours may be older than that. no_xentop: why there is
    nothing by xentop."""

    interfaces: tuple[Audited, ...]
    apart: float
    stale: str | None
    no_xentop: str | None


def drift(audited: Audited, other: Counters) -> Counters:
    """By how much the other counters have more than we ever counted, or less, as a negative number."""
    return Counters(
        *(
            max(0, counted - after) + min(0, counted - before)
            for before, after, counted in zip(audited.before, audited.after, other, strict=True)
        )
    )


def percent(drifted: int, other: int) -> float:
    """The drift as a part of what the other counters have, with three decimals."""
    return round(100 * drifted / other, 3) if other else 100.0 if drifted else 0.0


def reason(audited: Audited) -> str:
    """What the kernel's counters are known to differ by, where they do so this way; "" where they agree.

    linux drivers/net/xen-netback/interface.c: its counters are sums over its queues, which go when the guest's frontend
    does, and what it drops for want of room was already seen by our egress hook. drivers/net/tun.c counts what comes
    from QEMU with its Ethernet header, which is gone where our ingress hook sees it.
    """
    if audited.kernel is None:
        return "the kernel has no interface of that name any more"
    more_in, more_out = drift(audited, audited.kernel)
    if more_in < 0 and more_out < 0:
        return "netback cleared its counters when the guest connected anew"
    if more_in < 0:
        return "netback dropped frames for the guest after ours had counted them"
    if more_out > 0 and audited.binding.kind is Kind.EMU:
        return "a tap counts 14 bytes of header more for each frame from the guest"
    if more_in > 0 or more_out > 0:
        return "the kernel's also have what passed before xenbw was first here"
    return "" if more_out == 0 else "unknown"

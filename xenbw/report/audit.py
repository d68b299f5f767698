"""Compare xenbw's numbers with independent ones: all bytes of an interface's life, by xenbw, the kernel and xentop.

Traffic goes on meanwhile. So xenbw's numbers are read twice, before and after the others; only numbers outside of these
two are drift.
"""

from __future__ import annotations

from dataclasses import dataclass

from xenbw.model import Binding, Counters, Kind


@dataclass(frozen=True)
class Audited:
    """A live interface. before, after: all bytes that xenbw counted on it (usage, flood and refused), before and after
    the other counters were read. kernel, xentop: None if they have no number for it."""

    binding: Binding
    before: Counters
    after: Counters
    kernel: Counters | None
    xentop: Counters | None


@dataclass(frozen=True)
class Audit:
    """apart: seconds between the two readings of xenbw's counters. stale: why xenbw's numbers may be older than that.
    no_xentop: why there are no numbers of xentop."""

    interfaces: tuple[Audited, ...]
    apart: float
    stale: str | None
    no_xentop: str | None


def drift(audited: Audited, other: Counters) -> Counters:
    """How much more the other counters have than xenbw counted; negative if they have less."""
    return Counters(
        *(
            max(0, counted - after) + min(0, counted - before)
            for before, after, counted in zip(audited.before, audited.after, other, strict=True)
        )
    )


def percent(drifted: int, other: int) -> float:
    """The drift in percent of the other counter, with three decimals."""
    return round(100 * drifted / other, 3) if other else 100.0 if drifted else 0.0


def reason(audited: Audited) -> str:
    """The known reason for a difference from the kernel's counters, or "unknown"; "" if they agree.

    linux drivers/net/xen-netback/interface.c: its counters are sums over its queues, which go when the guest's frontend
    disconnects; frames that it drops for want of room have already passed xenbw's egress hook. drivers/net/tun.c counts
    frames from QEMU with their Ethernet header, which is removed before xenbw's ingress hook.
    """
    if audited.kernel is None:
        return "the kernel has no interface of that name any more"
    more_in, more_out = drift(audited, audited.kernel)
    if more_in < 0 and more_out < 0:
        return "netback cleared its counters when the guest connected anew"
    if more_in < 0:
        return "netback dropped frames for the guest after xenbw had counted them"
    if more_out > 0 and audited.binding.kind is Kind.EMU:
        return "a tap also counts the 14-byte header of each frame from the guest"
    if more_in > 0 or more_out > 0:
        return "the kernel's counters include traffic from before xenbw first ran here"
    return "" if more_out == 0 else "unknown"

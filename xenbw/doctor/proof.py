"""Prove meter, null route and seal with packets on a rig, and judge the results."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from xenbw.blocks import restore
from xenbw.blocks.block import Wanted
from xenbw.doctor import wire
from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.namespace import has_ipv6
from xenbw.doctor.rig import DOM0_ADDRESS, GUEST_ADDRESS, GUEST_MAC, PEER_ADDRESS, PEER_MAC, Rig
from xenbw.doctor.wire import Card

# The largest size is 1280 bytes, which every link carries (RFC 8200), and the Ethernet header.
FRAMES, _SIZES = 50, (64, 600, 1294)
REPORT = "report this as a bug: on the test network only xenbw, the kernel or nft can cause it"

_LOOKS = 5


@dataclass(frozen=True)
class Metered:
    """passed: the bytes that the guest's own card saw. counted: the bytes of each of xenbw's counters."""

    passed: Card
    counted: dict[str, int]


@dataclass(frozen=True)
class Routed:
    """How many of three pings were answered, (by dom0, by a neighbour over the bridge), before, during and after the
    null route. filtered: whether null routes see what bridges forward."""

    before: tuple[int, int]
    blocked: tuple[int, int]
    after: tuple[int, int]
    filtered: bool


@dataclass(frozen=True)
class Sealed:
    """How many frames arrived from the guest and at it while it was sealed. after: the smaller of these two numbers
    after the seal was removed."""

    from_guest: int
    to_guest: int
    after: int


def of_meter_and_seal(rig: Rig, where: str) -> Iterator[Finding]:
    """where: the bridge's name for the findings. Raises MeterError, OSError."""
    if 0 in exchange(rig, 64):
        fix = f"find out why a new port gets no frames: bridge -d link show, tcpdump on {where}"
        yield doubt("meter", f"{where}: no frame passes between two ports, so the test cannot be done there", fix)
        return
    why = rig.cover()
    if why:
        yield bad("meter", f"{where}: {'; '.join(why)}", "journalctl -k, and nft list ruleset, may show why")
        return
    yield judge_meter(_meter(rig), where)
    yield judge_seal(_seal(rig), where)
    dropped = _drop(rig)
    if dropped is not None:
        yield judge_seal(dropped, f"{where}, by tc alone")
    else:
        text = f"{where}: tc cannot seal: links of blocked VMs are set down instead, and their shutdown may hang"
        yield doubt("seal", text, "modprobe sch_ingress cls_bpf")


def of_null_route(rig: Rig, method: str, *, filtered: bool) -> Iterator[Finding]:
    """In the rig's own tables. method: by what addresses are null-routed. filtered: whether iptables sees what bridges
    forward. Raises XenbwError, OSError."""
    in_chains = method == restore.METHOD
    for version in ((4, 6) if has_ipv6() else (4,)) if in_chains else ():
        # python-iptables need not be installed where it is not the method.
        from xenbw.blocks.iptables import Iptables

        why = rig.dom0.do(Iptables(version).probe)
        if why is not None:
            module = "iptable_filter" if version == 4 else "ip6table_filter"
            yield bad("null route", f"IPv{version} cannot be null-routed: {why}", f"modprobe {module}")
            if version == 4:
                return
    with rig.block("null routes") as null_routes:
        before = _pings(rig)
        rig.dom0.do(lambda: null_routes.apply(Wanted({IPv4Address(GUEST_ADDRESS): "xenbw doctor"}, method=method)))
        blocked = _pings(rig)
        rig.dom0.do(lambda: null_routes.apply(Wanted(method=method)))
    yield judge_null_route(Routed(before, blocked, _pings(rig), filtered or not in_chains))


def judge_meter(metered: Metered, where: str) -> Finding:
    passed, counted = metered.passed, metered.counted
    ours = (counted.get("in", 0), counted.get("out", 0))
    text = f"of {passed.in_bytes:,} bytes to a guest and {passed.out_bytes:,} from it"
    if ours == (passed.in_bytes, passed.out_bytes) and not counted.get("flood"):
        return good("meter", f"{where}: {text}, every one was counted")
    rest = f", and {counted['flood']:,} as flood" if counted.get("flood") else ""
    return bad("meter", f"{where}: {text}, {ours[0]:,} and {ours[1]:,} were counted{rest}", REPORT)


def judge_null_route(routed: Routed) -> Finding:
    topic = "null route"
    if 0 in routed.before:
        return bad(topic, "no ping was answered even without a null route, so the test cannot be done", REPORT)
    to_dom0, to_neighbour = routed.blocked
    if to_dom0 or (to_neighbour and routed.filtered):
        return bad(topic, f"a null-routed address still got {to_dom0 + to_neighbour} answers", REPORT)
    if 0 in routed.after:
        return bad(topic, "no ping was answered after the null route was removed", REPORT)
    if to_neighbour:
        text = "stops packets to dom0, but without br_netfilter not those that a bridge forwards: the seal stops those"
        return good(topic, text)
    return good(topic, "stops every ping, to dom0 and over the bridge; after its removal pings pass again")


def judge_seal(sealed: Sealed, where: str) -> Finding:
    if sealed.from_guest or sealed.to_guest:
        text = f"{where}: {sealed.from_guest} frames from a sealed guest and {sealed.to_guest} to it got through"
        return bad("seal", text, REPORT)
    if sealed.after == 0:
        return bad("seal", f"{where}: no frame passed after the seal was removed", REPORT)
    return good("seal", f"{where}: stops every frame, both ways; after its removal frames pass again")


def _put_seal(rig: Rig, *, sealed: bool) -> None:
    """Put the seal on the guest's interface, or take it away."""
    with rig.block("seal" if sealed else "opening") as block:
        rig.dom0.do(lambda: block.apply(Wanted(ports=(rig.port._replace(sealed=sealed),))))


def exchange(rig: Rig, size: int, seconds: float = wire.SURELY) -> tuple[int, int]:
    """Send frames of a size both ways. Returns how many arrived at the guest and from it within `seconds`."""
    with wire.listen(rig.guest) as guest, wire.listen(rig.peer) as peer:
        wire.send(rig.guest, PEER_MAC, FRAMES, size)
        wire.send(rig.peer, GUEST_MAC, FRAMES, size)
        limit = time.monotonic() + seconds
        return wire.heard(guest, FRAMES, limit), wire.heard(peer, FRAMES, limit)


def _meter(rig: Rig) -> Metered:
    passed, counted = _weigh(rig)
    for size in _SIZES:
        exchange(rig, size)
    now, total = _weigh(rig)
    return Metered(now.since(passed), {what: size - counted.get(what, 0) for what, size in total.items()})


def _weigh(rig: Rig) -> tuple[Card, dict[str, int]]:
    """The guest's card and xenbw's counters at the same moment, when no frame passed between the two readings."""
    for _ in range(_LOOKS):
        card, counted = wire.card(rig.guest), rig.counted()
        if wire.card(rig.guest) == card:
            break
    return card, counted


def _seal(rig: Rig) -> Sealed:
    _put_seal(rig, sealed=True)
    to_guest, from_guest = exchange(rig, 64, wire.IN_VAIN)
    _put_seal(rig, sealed=False)
    return Sealed(from_guest, to_guest, min(exchange(rig, 64)))


def _drop(rig: Rig) -> Sealed | None:
    """The drop by tc put and removed again; None if it cannot be had."""
    port = rig.port
    with rig.block("drop") as drop:
        held = rig.dom0.do(lambda: drop.apply(Wanted(shut={port.ifindex: port.interface}))).shut
        to_guest, from_guest = exchange(rig, 64, wire.IN_VAIN) if held else (0, 0)
        rig.dom0.do(lambda: drop.apply(Wanted()))
    return Sealed(from_guest, to_guest, min(exchange(rig, 64))) if held else None


def _pings(rig: Rig) -> tuple[int, int]:
    return wire.ping(rig.guest, DOM0_ADDRESS), wire.ping(rig.guest, PEER_ADDRESS)

"""Prove the throttle with packets on a rig, and judge the results."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from xenbw.blocks import throttle_text
from xenbw.blocks.block import Block, Wanted
from xenbw.blocks.registry import THROTTLE, TRIPWIRE
from xenbw.doctor import wire
from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.proof import FRAMES, REPORT, exchange
from xenbw.doctor.rig import GUEST_MAC, PEER_MAC, Rig
from xenbw.doctor.tripping import past_allowance
from xenbw.nft import nft
from xenbw.units import SLOWEST

_TOPIC = "throttle"
_VM_ID = 0  # no VM in the ledger has this id
# At the slowest rate nearly all that passes at once is the burst, however busy the host is. Twice the burst is sent.
_HEADER, _SIZE = 14, 1294
_SENT = 2 * throttle_text.BURST // (_SIZE - _HEADER)


@dataclass(frozen=True)
class Throttled:
    """Frames of a throttled guest; pairs are (to the guest, from it).

    within: how many of FRAMES small frames arrived. sent: how many large frames were sent each way after these, more
    than the rate lets through. passed: how many of them arrived. most: how many the rate lets through. counted,
    refused: how many of them xenbw counted as usage and as refused. after: how many of FRAMES arrived when the throttle
    was removed, the smaller number of both ways.
    """

    within: tuple[int, int]
    sent: int
    passed: tuple[int, int]
    most: int
    counted: tuple[int, int]
    refused: tuple[int, int]
    after: int


def of_throttle(rig: Rig) -> Iterator[Finding]:
    """Only for a rig in its own network: a block takes away all throttles in its table that it is not told of, and on a
    bridge of this host that would be those of this host's VMs. Raises XenbwError, OSError."""
    with rig.block(THROTTLE) as block:
        why = rig.dom0.do(block.probe)
        if why is not None:
            yield doubt(_TOPIC, why, "give VMs the action block or warn, or boot Linux 5.16 or later")
            return
        yield judge_throttle(_throttle(rig, block))


def judge_throttle(found: Throttled) -> Finding:
    if min(found.within) < FRAMES:
        text = f"of {FRAMES} frames within a guest's rate, to it and from it, {found.within[0]} and {found.within[1]}"
        return bad(_TOPIC, f"{text} passed", REPORT)
    passed = f"of {found.sent} frames to a throttled guest and as many from it, {found.passed[0]} and {found.passed[1]}"
    if max(found.passed) > found.most:
        return bad(_TOPIC, f"{passed} passed; its rate lets {found.most} through", REPORT)
    refused = (found.sent - found.passed[0], found.sent - found.passed[1])
    if (found.counted, found.refused) != (found.passed, refused):
        counted = f"{found.counted[0]} and {found.counted[1]} were counted as usage"
        text = f"{passed} passed; {counted}, {found.refused[0]} and {found.refused[1]} as refused"
        return bad(_TOPIC, text, REPORT)
    if found.after < FRAMES:
        return bad(_TOPIC, f"of {FRAMES} frames only {found.after} passed after the throttle was removed", REPORT)
    return good(_TOPIC, f"{passed} passed and were counted; those beyond its rate were refused")


def _throttle(rig: Rig, block: Block) -> Throttled:
    began = time.monotonic()
    _put(rig, block, (_VM_ID, SLOWEST, SLOWEST))
    within = exchange(rig, 64)
    places = (rig.guest, rig.peer)
    cards, counters = [wire.card(place) for place in places], rig.counted()
    wire.send(rig.peer, GUEST_MAC, _SENT, _SIZE)
    wire.send(rig.guest, PEER_MAC, _SENT, _SIZE)

    def counted(what: str) -> tuple[int, int]:
        now = rig.counted()
        to_guest, from_guest = (now.get(f"{what}{way}", 0) - counters.get(f"{what}{way}", 0) for way in nft.WAYS)
        return round(to_guest / _SIZE), round(from_guest / (_SIZE - _HEADER))

    # Wait until the last frame has been handled.
    wire.until(lambda: min(map(sum, zip(counted(""), counted("refused-"), strict=True))) >= _SENT, wire.SURELY)
    to_guest, from_guest = (wire.card(place).since(card) for place, card in zip(places, cards, strict=True))
    allowed = throttle_text.BURST + SLOWEST / 8 * (1 + time.monotonic() - began)
    usage, refused = counted(""), counted("refused-")
    _put(rig, block, None)
    return Throttled(
        within,
        _SENT,
        (round(to_guest.in_bytes / _SIZE), round(from_guest.in_bytes / _SIZE)),
        int(allowed / (_SIZE - _HEADER)) + 1,
        usage,
        refused,
        min(exchange(rig, 64)),
    )


def _put(rig: Rig, block: Block, throttle: tuple[int, int, int] | None) -> None:
    """Put the throttle on the guest's interface, or take it away."""
    port = rig.port._replace(throttle=throttle, vm_id=_VM_ID)
    # Past its allowance: the tripwire that lets the throttle take hold has run out.
    lines = () if throttle is None else (past_allowance(_VM_ID, "slow"),)
    with rig.block(TRIPWIRE) as tripwire:
        rig.put(tripwire, Wanted(ports=(port,), lines=lines))
    rig.put(block, Wanted(ports=(port,)))

"""Prove the tripwire with packets on a rig, and judge the results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from xenbw.blocks.block import Block, Line, Wanted
from xenbw.blocks.registry import TRIPWIRE
from xenbw.doctor import wire
from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.proof import FRAMES, REPORT, exchange
from xenbw.doctor.rig import Rig
from xenbw.nft import nft

_TOPIC = "tripwire"
_VM_ID = 0  # no VM in the ledger has this id
_EVER = datetime.min.replace(tzinfo=UTC)
_HEADER, _SIZE = 14, 64
_LIMIT = FRAMES * _SIZE  # bytes in both directions; nearly twice as many are sent


@dataclass(frozen=True)
class Tripped:
    """passed: bytes that passed of those sent to and from a guest which may use _LIMIT bytes. counted: of them, as
    usage. after: how many of FRAMES arrived when the tripwire was removed, the smaller number of both ways."""

    passed: int
    counted: int
    after: int


def past_allowance(vm_id: int, kind: str) -> Line:
    """A line that a VM is past."""
    return Line(vm_id, kind, "total", None, 0, _EVER)


def of_tripwire(rig: Rig) -> Iterator[Finding]:
    """Only for a rig in its own network: a block takes away all tripwires in its table that it is not told of. Raises
    XenbwError, OSError."""
    with rig.block(TRIPWIRE) as block:
        why = rig.dom0.do(block.probe)
        if why is not None:
            yield doubt(_TOPIC, why, "xenbwd alone holds the allowances; boot Linux 5.16 or later")
            return
        yield judge_tripwire(_trip(rig, block))


def judge_tripwire(found: Tripped) -> Finding:
    passed = f"{found.passed:,} bytes of a guest with an allowance of {_LIMIT:,} passed"
    if not _LIMIT - _SIZE <= found.passed <= _LIMIT:
        return bad(_TOPIC, passed, REPORT)
    if found.counted != found.passed:
        return bad(_TOPIC, f"{passed}; {found.counted:,} were counted as usage", REPORT)
    if found.after < FRAMES:
        return bad(_TOPIC, f"of {FRAMES} frames only {found.after} passed after the tripwire was removed", REPORT)
    return good(_TOPIC, f"{passed} and were counted; the kernel refused the next frame and all after it")


def _trip(rig: Rig, block: Block) -> Tripped:
    port = rig.port._replace(vm_id=_VM_ID)
    rig.put(block, Wanted(ports=(port,), lines=(Line(_VM_ID, "trip", "total", _LIMIT, 0, _EVER),)))
    before = _usage(rig)
    to_guest, from_guest = exchange(rig, _SIZE, wire.IN_VAIN)
    counted = _usage(rig) - before
    rig.put(block, Wanted(ports=(port,)))
    return Tripped(to_guest * _SIZE + from_guest * (_SIZE - _HEADER), counted, min(exchange(rig, _SIZE)))


def _usage(rig: Rig) -> int:
    counted = rig.counted()
    return sum(counted.get(way, 0) for way in nft.WAYS)

"""Explain a VM's usage: the part of each interface, and the parts of no interface here. They add up to the total."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xenbw.model import ZERO, Binding, Counters, Digest

UNKNOWN = "not of an interface known here: taken over, or counted before version 0.2.0, or refiled by a new reset day"
ELSEWHERE = "on other hosts, as the book told"


@dataclass(frozen=True)
class Line:
    """A part of the usage: of one interface, or of many earlier lives together. If it belongs to neither, `why` says
    where it comes from."""

    usage: Counters
    binding: Binding | None = None
    why: str = ""
    digest: Digest | None = None


def explain(
    lives: Iterable[tuple[Binding, Counters]], here: Counters, elsewhere: Counters, earlier: Sequence[Digest] = ()
) -> list[Line]:
    """The parts of a period's usage, which add up exactly to `here` (on this host) and `elsewhere` (on other hosts).
    earlier: lives that are summed up.

    If usage was moved to another period after a clock had gone back, an interface may have counted more than the period
    has. The part without an interface is then negative.
    """
    lines = [Line(digest.counted.usage, digest=digest) for digest in earlier]
    lines += [Line(usage, binding) for binding, usage in lives]
    known = total(lines)
    rest = Counters(here.in_bytes - known.in_bytes, here.out_bytes - known.out_bytes)
    if any(rest):
        lines.append(Line(rest, why=UNKNOWN))
    if any(elsewhere):
        lines.append(Line(elsewhere, why=ELSEWHERE))
    return lines


def total(lines: Iterable[Line]) -> Counters:
    """The sum of the parts."""
    found = ZERO
    for line in lines:
        found = found.plus(line.usage)
    return found


def meter_of(binding: Binding) -> str:
    """The meter that counts the interface, or last did: nft, or kernel, which also stands for xentop."""
    return "kernel" if binding.mark.own is None else "nft"

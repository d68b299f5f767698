"""A finding of doctor: a line of text, how bad it is, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """PASS: works. WARN: works, but may stop working or could work better. FAIL: a promise of xenbw does not hold."""

    PASS = "PASS"  # noqa: S105 (no password)
    WARN = "WARN"
    FAIL = "FAIL"


_ORDER = list(Level)


@dataclass(frozen=True)
class Finding:
    """One line. text may hold names of VMs and messages of other programs: call printable() before showing it. fix:
    what to do, "" if nothing."""

    level: Level
    topic: str
    text: str
    fix: str = ""


def good(topic: str, text: str) -> Finding:
    return Finding(Level.PASS, topic, text)


def doubt(topic: str, text: str, fix: str) -> Finding:
    return Finding(Level.WARN, topic, text, fix)


def bad(topic: str, text: str, fix: str) -> Finding:
    return Finding(Level.FAIL, topic, text, fix)


def worst(findings: Iterable[Finding]) -> Level:
    """The level of the worst finding; PASS if there is none."""
    return max((finding.level for finding in findings), key=_ORDER.index, default=Level.PASS)

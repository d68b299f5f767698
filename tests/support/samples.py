"""Hosts and their metrics, as a test makes them and reads them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest

from tests.support.clock import utc
from tests.support.promtool import PROGRAM
from xenbw.model import VM, Allowance, Amounts, Counters, Entry, Kind, Period
from xenbw.report.metrics import Sample, VifSample

NOW = utc("2026-11-20 12:00")
PERIOD = Period(utc("2026-11-01"), utc("2026-12-01"))
STATUS: dict[str, Any] = {
    "started_at": "2026-11-20T11:00:00Z",
    "meter": "kernel",
    "meter_reason": "nft is broken",
    "meter_gaps": 2,
    "interfaces": 3,
    "pending_vifs": 1,
    "null_routes": 4,
    "problems": ["a", "b"],
    "last_commit": "2026-11-20T11:59:55Z",
    "clock_trusted": True,
    "book": {"backlog": 7, "current_at": "2026-11-20T11:58:00Z", "summary": "behind"},
}
needs_promtool = pytest.mark.skipif(PROGRAM is None, reason="needs promtool: tools/setup test")
_LINE = re.compile(r'(?P<name>[a-z_]+)(?:\{(?P<labels>(?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (?P<value>\S+)')


def entry(vm_id: int, name: str, limit: int | None = 1000, **facts: Any) -> Entry:
    vm = VM(vm_id, name, NOW, **{"added_at": NOW, **facts})
    return Entry(vm, Allowance(limit, hard_limit_bytes=limit and 2 * limit), True, PERIOD)


def sample(*entries: Entry, **facts: Any) -> Sample:
    return Sample(NOW, {one.vm.id: one for one in entries}, facts.pop("here", {}), **facts)


def everything() -> Sample:
    """A sample with every metric."""
    vifs = [VifSample(1, 7, 0, Kind.VIF, Amounts(1, 2, 3, 4, 5))]
    waiting = {"mail": 3}
    web1 = entry(1, "web1", forecast_at=PERIOD.end - timedelta(minutes=1))
    return sample(web1, here={1: Counters(400, 450)}, vifs=vifs, status=STATUS, waiting=waiting)


def parse(metrics: str) -> dict[tuple[str, str], float]:
    """(metric, labels) -> value. It fails for a line that is none, and for a series that comes twice."""
    found: dict[tuple[str, str], float] = {}
    for line in metrics.splitlines():
        if not line.startswith("#"):
            parts = _LINE.fullmatch(line)
            assert parts, line
            series = parts["name"], parts["labels"] or ""
            assert series not in found
            found[series] = float(parts["value"])
    return found


def names(metrics: str) -> set[str]:
    return {name for name, _ in parse(metrics)}

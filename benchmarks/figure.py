"""One measured figure, and the table that prints it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A measurement in `unit`. limit, least: the target, at most or at least that much, or None without a target. peer:
    a measurement of the same run and unit to compare with, as (words, value)."""

    what: str
    value: float
    unit: str
    limit: float | None = None
    peer: tuple[str, float] | None = None
    least: float | None = None

    @property
    def target(self) -> str:
        """The target in words, or ""."""
        bounds = [
            f"{sign} {bound:.4g}" for sign, bound in ((">=", self.least), ("<=", self.limit)) if bound is not None
        ]
        return " ".join([*bounds, self.unit]) if bounds else ""

    @property
    def missed(self) -> bool:
        """Whether it is below or above its target."""
        too_little = self.least is not None and self.value < self.least
        return too_little or (self.limit is not None and self.value > self.limit)

    def row(self) -> tuple[str, str, str, str, str]:
        """The figure, the measurement, the target and whether it is met, the ratio to the peer."""
        met = ("MISSED" if self.missed else "met") if self.target else ""
        ratio = ""
        if self.peer is not None:
            name, value = self.peer
            ratio = f"{self.value / value:.2f} x {name} ({value:.4g} {self.unit})"
        return self.what, f"{self.value:.4g} {self.unit}", self.target, met, ratio


def milliseconds(seconds: Iterable[float]) -> float:
    """The median of some durations, in milliseconds."""
    return statistics.median(seconds) * 1000


def print_table(figures: Iterable[Figure]) -> None:
    for what, measured, target, met, ratio in (figure.row() for figure in figures):
        print(f"{what:52} {measured:>12}  {target:24} {met:6} {ratio}".rstrip(), flush=True)

"""How the kernel's quota objects follow their lines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from tests.support.clock import utc
from xenbw.blocks.block import Line
from xenbw.blocks.tripwire import Tripwire
from xenbw.nft.objects import Quota

MARCH = utc("2026-03-01")
BIG = 10**9


def line(used: int, limit: int | None = BIG, kind: str = "trip") -> Line:
    return Line(1, kind, "total", limit, used, MARCH)


class Kernel:
    """A tripwire whose quota objects are what the test says."""

    def __init__(self) -> None:
        self.quotas = SimpleNamespace(before={}, after={}, complete=False)
        self.tripwire = Tripwire(
            cast("Any", SimpleNamespace(of=lambda: None)), cast("Any", None), cast("Any", self.quotas)
        )

    def look(self, name: str, one: Line, quota: Quota) -> str:
        """The text by which one look at the object changes it."""
        self.quotas.before = self.quotas.after = {name: quota}
        change = self.tripwire._change({name: one}, {name: quota})
        self.tripwire._gaps, self.tripwire._late = change.gaps, change.late
        return change.text


def made(kind: str, used: int) -> str:
    return f"add quota netdev xenbw {kind}-total-1 {{ over {BIG} bytes used {used} bytes }}\n"


def test_the_limit_is_moved_by_the_gap() -> None:
    assert "over 999999905 bytes" in Kernel().look("trip-total-1", line(100), Quota(BIG, 5))


def test_the_object_of_a_vm_that_is_past_its_line_has_no_more_used_than_its_limit() -> None:
    change = Kernel().tripwire._change({"trip-total-1": line(BIG + 500)}, {})
    assert change.text == made("trip", BIG)


def test_an_object_that_ran_out_too_early_is_made_anew_when_usage_is_the_same_twice() -> None:
    kernel, spent = Kernel(), Quota(1000, 1000)
    assert not kernel.look("trip-total-1", line(100), spent)
    assert not kernel.look("trip-total-1", line(200), spent)
    assert kernel.look("trip-total-1", line(200), spent) == made("trip", 200)


def test_a_busy_vm_is_no_longer_throttled_when_its_line_allows_more() -> None:
    kernel, spent = Kernel(), Quota(1, 1)
    assert not kernel.look("slow-total-1", line(0, None, "slow"), spent)
    assert not kernel.look("slow-total-1", line(100, kind="slow"), spent)
    assert kernel.look("slow-total-1", line(200, kind="slow"), spent) == made("slow", 200)

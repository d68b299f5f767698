from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clock import utc
from tests.support.pace import busy
from xenbw.clock import Moment, SystemClock, Tick, Timeline, Trust, boot_id

BOOT = utc("2026-03-01")
KNOWN = utc("2026-03-01 12:00")
WAIT = 900.0


def tick(elapsed: float, jumped: timedelta = timedelta()) -> Tick:
    """The clocks `elapsed` seconds after boot, with the wall clock set by `jumped`."""
    return Tick(BOOT + timedelta(seconds=elapsed) + jumped, elapsed)


class Vouching:
    """A witness with a fixed answer, which remembers its calls."""

    def __init__(self, answer: bool = False) -> None:
        self.answer = answer
        self.asked: list[tuple[float, float]] = []

    def __call__(self, since: float, now: float) -> bool:
        self.asked.append((since, now))
        return self.answer


def timeline(known: datetime | None = KNOWN, last: Tick | None = None, *, vouched: bool = False) -> Timeline:
    return Timeline(known, last, WAIT, Vouching(vouched))


def test_a_synchronised_clock_is_trusted_at_once() -> None:
    line = timeline(None, vouched=True)
    assert line.moment(tick(5)) == Moment(BOOT + timedelta(seconds=5), True)
    assert line.trust is Trust.SYNCHRONISED


def test_a_clock_that_was_not_set_since_boot_is_trusted_after_the_wait() -> None:
    line = timeline(None)
    assert not line.moment(tick(5)).trusted
    assert not line.moment(tick(899)).trusted
    assert line.moment(tick(900)).trusted


def test_without_an_earlier_time_the_clock_is_used_but_not_trusted() -> None:
    assert timeline(None).moment(tick(5)) == Moment(BOOT + timedelta(seconds=5), False)


def test_after_a_boot_time_never_falls_behind_the_last_commit() -> None:
    line = timeline()
    assert line.moment(Tick(utc("1970-01-01"), 5)) == Moment(KNOWN, False)


@pytest.mark.parametrize("jump", [timedelta(days=40), timedelta(days=-40), timedelta(seconds=61)])
def test_after_a_jump_time_goes_on_evenly_until_the_clock_is_trusted(jump: timedelta) -> None:
    line = timeline()
    assert line.moment(tick(5000)).trusted
    for elapsed in (5001, 5300, 5900):
        assert line.moment(tick(elapsed, jump)) == Moment(BOOT + timedelta(seconds=elapsed), False)
    assert line.moment(tick(5901, jump)) == Moment(BOOT + timedelta(seconds=5901) + jump, True)


def test_a_jump_to_a_time_that_the_witness_confirms_is_trusted_at_once() -> None:
    line = timeline(vouched=True)
    line.moment(tick(5000))
    jump = timedelta(days=40)
    assert line.moment(tick(5001, jump)) == Moment(BOOT + timedelta(seconds=5001) + jump, True)


def test_the_witness_is_asked_only_while_the_clock_is_doubted_and_about_this_doubt() -> None:
    witness = Vouching()
    line = Timeline(KNOWN, None, WAIT, witness)
    line.moment(tick(100))
    line.moment(tick(200, timedelta(days=1)))
    line.moment(tick(210, timedelta(days=1)))
    assert witness.asked == [(0.0, 100), (200, 200), (200, 210)]
    witness.answer = True
    line.moment(tick(220, timedelta(days=1)))
    line.moment(tick(230, timedelta(days=1)))
    assert witness.asked[3:] == [(200, 220)]


def test_a_confirmed_clock_is_trusted_until_the_next_jump() -> None:
    witness = Vouching(True)
    line = Timeline(KNOWN, None, WAIT, witness)
    line.moment(tick(100))
    witness.answer = False
    assert line.moment(tick(110)).trusted
    assert not line.moment(tick(120, timedelta(days=1))).trusted


def test_after_the_wait_no_witness_is_needed() -> None:
    witness = Vouching()
    line = Timeline(KNOWN, None, WAIT, witness)
    assert line.moment(tick(900)).trusted
    assert line.trust is Trust.UNCHALLENGED
    assert witness.asked == []


def test_another_jump_restarts_the_wait() -> None:
    line = timeline()
    line.moment(tick(5000))
    line.moment(tick(5001, timedelta(days=1)))
    line.moment(tick(5800, timedelta(days=2)))
    assert not line.moment(tick(6600, timedelta(days=2))).trusted
    assert line.moment(tick(6700, timedelta(days=2))).trusted


def test_a_slow_correction_is_not_a_jump() -> None:
    line = timeline()
    line.moment(tick(5000))
    assert line.moment(tick(5001, timedelta(seconds=59))).trusted


def test_a_suspend_is_not_a_jump() -> None:
    line = timeline()
    line.moment(tick(5000))
    assert line.moment(tick(5000 + 86400)).trusted


def test_a_restart_does_not_make_a_doubted_clock_trusted() -> None:
    line = timeline()
    line.moment(tick(5000))
    doubted = line.moment(tick(5010, timedelta(days=40)))
    restarted = timeline(doubted.at, Tick(doubted.at, 5010))
    assert restarted.moment(tick(5011, timedelta(days=40))) == Moment(BOOT + timedelta(seconds=5011), False)


@given(
    st.lists(
        st.tuples(st.floats(0.1, 500), st.integers(-(10**8), 10**8), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_while_the_clock_is_doubted_time_passes_as_the_kernel_counts_it(steps: list[tuple[float, int, bool]]) -> None:
    witness, elapsed = Vouching(), 2000.0
    line = Timeline(KNOWN, None, WAIT, witness)
    before = line.moment(tick(elapsed))
    for passed, jump, synchronised in steps:
        elapsed, witness.answer = elapsed + passed, synchronised
        now = line.moment(tick(elapsed, timedelta(seconds=jump)))
        if not now.trusted:
            assert abs(now.at - before.at - timedelta(seconds=passed)) < timedelta(milliseconds=1)
        before = now


def test_the_system_clock_gives_the_wall_time_and_the_time_since_boot() -> None:
    now = SystemClock().tick()
    assert abs(now.wall - datetime.now(UTC)) < timedelta(seconds=busy(1))
    assert abs(now.elapsed - float(Path("/proc/uptime").read_text().split()[0])) < busy(1)


def test_a_boot_has_one_id() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36

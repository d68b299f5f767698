from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.clock import utc
from xenbw.clock import Moment, SystemClock, Tick, Timeline, boot_id

BOOT = utc("2026-03-01")
KNOWN = utc("2026-03-01 12:00")
WAIT = 900.0


def tick(elapsed: float, jumped: timedelta = timedelta(), *, synced: bool = False) -> Tick:
    """What the clocks say so many seconds after boot, with the wall clock set by so much."""
    return Tick(BOOT + timedelta(seconds=elapsed) + jumped, elapsed, synced)


def test_a_synchronised_clock_is_believed_at_once() -> None:
    assert Timeline(None, None, WAIT).moment(tick(5, synced=True)) == Moment(BOOT + timedelta(seconds=5), True)


def test_a_clock_that_nobody_set_since_boot_is_believed_after_the_wait() -> None:
    timeline = Timeline(None, None, WAIT)
    assert not timeline.moment(tick(5)).trusted
    assert not timeline.moment(tick(899)).trusted
    assert timeline.moment(tick(900)).trusted


def test_a_clock_without_a_past_is_taken_as_it_is_but_not_trusted() -> None:
    assert Timeline(None, None, WAIT).moment(tick(5)) == Moment(BOOT + timedelta(seconds=5), False)


def test_after_a_boot_time_never_falls_behind_the_last_commit() -> None:
    timeline = Timeline(KNOWN, None, WAIT)
    assert timeline.moment(Tick(utc("1970-01-01"), 5, False)) == Moment(KNOWN, False)


@pytest.mark.parametrize("jump", [timedelta(days=40), timedelta(days=-40), timedelta(seconds=61)])
def test_after_a_jump_time_goes_on_evenly_until_the_clock_has_proved_itself(jump: timedelta) -> None:
    timeline = Timeline(KNOWN, None, WAIT)
    assert timeline.moment(tick(5000)).trusted
    for elapsed in (5001, 5300, 5900):
        assert timeline.moment(tick(elapsed, jump)) == Moment(BOOT + timedelta(seconds=elapsed), False)
    assert timeline.moment(tick(5901, jump)) == Moment(BOOT + timedelta(seconds=5901) + jump, True)


def test_a_jump_to_a_time_that_the_kernel_vouches_for_is_believed_at_once() -> None:
    timeline = Timeline(KNOWN, None, WAIT)
    timeline.moment(tick(5000))
    jump = timedelta(days=40)
    assert timeline.moment(tick(5001, jump, synced=True)) == Moment(BOOT + timedelta(seconds=5001) + jump, True)


def test_another_jump_begins_the_wait_anew() -> None:
    timeline = Timeline(KNOWN, None, WAIT)
    timeline.moment(tick(5000))
    timeline.moment(tick(5001, timedelta(days=1)))
    timeline.moment(tick(5800, timedelta(days=2)))
    assert not timeline.moment(tick(6600, timedelta(days=2))).trusted
    assert timeline.moment(tick(6700, timedelta(days=2))).trusted


def test_a_slow_correction_is_no_jump() -> None:
    timeline = Timeline(KNOWN, None, WAIT)
    timeline.moment(tick(5000))
    assert timeline.moment(tick(5001, timedelta(seconds=59))).trusted


def test_a_suspended_host_is_no_jump() -> None:
    timeline = Timeline(KNOWN, None, WAIT)
    timeline.moment(tick(5000))
    assert timeline.moment(tick(5000 + 86400)).trusted


def test_a_restart_does_not_make_a_doubted_clock_believed() -> None:
    timeline = Timeline(KNOWN, None, WAIT)
    timeline.moment(tick(5000))
    doubted = timeline.moment(tick(5010, timedelta(days=40)))
    restarted = Timeline(doubted.at, Tick(doubted.at, 5010, False), WAIT)
    assert restarted.moment(tick(5011, timedelta(days=40))) == Moment(BOOT + timedelta(seconds=5011), False)


@given(
    st.lists(
        st.tuples(st.floats(0.1, 500), st.integers(-(10**8), 10**8), st.booleans()),
        min_size=1,
        max_size=30,
    )
)
def test_while_it_is_not_trusted_time_passes_as_the_kernel_counts_it(steps: list[tuple[float, int, bool]]) -> None:
    timeline, elapsed = Timeline(KNOWN, None, WAIT), 2000.0
    before = timeline.moment(tick(elapsed))
    for passed, jump, synced in steps:
        elapsed += passed
        now = timeline.moment(tick(elapsed, timedelta(seconds=jump), synced=synced))
        if not now.trusted:
            assert abs(now.at - before.at - timedelta(seconds=passed)) < timedelta(milliseconds=1)
        before = now


def test_the_system_clock_tells_the_wall_time_and_the_time_since_boot() -> None:
    now = SystemClock().tick()
    assert abs(now.wall - datetime.now(UTC)) < timedelta(seconds=1)
    assert abs(now.elapsed - float(Path("/proc/uptime").read_text().split()[0])) < 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="knows the number of adjtimex(2) there only")
def test_the_system_clock_asks_the_kernel_whether_it_is_synchronised() -> None:
    state = subprocess.run(
        ["/usr/bin/perl", "-e", "$b = pack('x1024'); print syscall(159, $b) < 0 ? -1 : unpack('x40 i', $b)"],
        capture_output=True,
        text=True,
        check=True,
    )
    status = int(state.stdout)
    assert SystemClock().tick().synced == (status >= 0 and not status & 0x40)


def test_a_boot_has_one_name() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36

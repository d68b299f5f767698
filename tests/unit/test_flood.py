"""What is a flood: the pure rule, with rates by the second."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from xenbw.judge import flood
from xenbw.judge.flood import Rates, Series, Usual, Watch

NEW = Watch()
QUIET = Rates(1200.0, 1200.0, 0.0, 0.0, 10.0, 12.0)


def sending(pps: float, *, size: float = 60.0, refused: bool = False) -> Rates:
    """So many packets per second from the VM."""
    return Rates(1200.0, pps * size, 0.0, pps * size if refused else 0.0, 10.0, pps)


def sent_to(pps: float, *, replies: float = 0.0) -> Rates:
    """So many packets per second to the VM, and its replies."""
    return Rates(pps * 60, replies * 60, 0.0, 0.0, pps, replies)


def after(rates: Iterable[Rates], start: Watch = NEW, pps: int = 0, seconds: float = 1.0) -> Watch:
    for one in rates:
        start = flood.step(start, one, seconds, pps)
    return start


CALM = after([QUIET] * 60)


def test_a_flood_is_told_two_seconds_after_its_start_with_direction_rate_and_what_was_usual() -> None:
    assert after([sending(43_000)], CALM).flood is None
    found = after([sending(43_000, refused=True)] * 2, CALM).flood
    assert found is not None
    assert found.series == Series("packets", "out")
    assert found.upto == (2.0, 86_000, 86_000 * 60, 86_000 * 60)
    assert found.usual == pytest.approx(12)


def test_a_flood_to_a_vm_is_one_too() -> None:
    found = after([sent_to(43_000, replies=10_000)] * 2, CALM).flood
    assert found is not None
    assert found.series.way == "in"


def test_a_burst_of_a_second_is_none_however_often_it_comes() -> None:
    assert after([sending(90_000), QUIET] * 100, CALM).flood is None


def test_what_is_below_the_least_is_none_however_unusual() -> None:
    assert after([sending(19_000)] * 100, CALM).flood is None


def test_a_busy_vm_may_use_ten_times_its_usual() -> None:
    busy = after([sending(6_000)] * 3600)
    assert after([sending(55_000)] * 60, busy).flood is None
    assert after([sending(65_000)] * 2, busy).flood is not None


def test_a_vm_that_grows_slowly_is_not_told() -> None:
    assert after(sending(float(pps)) for pps in range(0, 120_000, 20)).flood is None


def test_many_bytes_in_few_packets_are_a_flood() -> None:
    found = after([sending(5_000, size=64_000.0)] * 2, CALM).flood
    assert found is not None
    assert found.series == Series("bytes", "out")


def test_nothing_is_told_while_nothing_is_known() -> None:
    assert after([sending(43_000)] * 3600).flood is None


def test_a_fixed_limit_holds_from_the_first_second_and_in_place_of_the_usual() -> None:
    assert after([sending(2_001)] * 2, pps=2_000).flood is not None
    assert after([sending(2_000)] * 100, pps=2_000).flood is None
    assert after([sending(43_000)] * 100, CALM, pps=50_000).flood is None


def test_where_only_bytes_are_known_they_decide() -> None:
    calm = after([Rates(1e6, 1e6)] * 60)
    assert calm.flood is None
    found = after([Rates(1e6, 2e8)] * 2, calm, pps=2_000).flood
    assert found is not None
    assert found.series == Series("bytes", "out")
    assert (found.upto.packets, found.upto.bytes) == (None, 4e8)


def test_a_flood_ends_when_it_was_below_half_for_thirty_seconds_which_are_not_in_its_sum() -> None:
    begun = after([sending(43_000)] * 2, CALM)
    lull = after([sending(43_000), *[sending(9_000)] * 29, sending(11_000), *[sending(9_000)] * 29], begun)
    assert lull.flood is not None
    assert lull.flood.upto[:2] == (33.0, 3 * 43_000 + 29 * 9_000 + 11_000)
    ended = after([sending(9_000)], lull)
    assert ended.flood is None
    assert ended.usual == CALM.usual, "a flood does not become usual"


def test_a_flood_that_stays_between_half_and_its_limit_goes_on() -> None:
    assert after([*[sending(43_000)] * 2, *[sending(10_001)] * 600], CALM).flood is not None


@pytest.mark.parametrize("seconds", [0.96, 2.0, 5.0])
def test_a_flood_is_told_within_five_seconds_whatever_the_time_between_readings(seconds: float) -> None:
    calm = after([QUIET] * 60, seconds=seconds)
    told = next(n for n in range(1, 9) if after([sending(43_000)] * n, calm, seconds=seconds).flood is not None)
    assert told * seconds <= max(5.0, seconds)


# who is named


def named(rates: dict[int, Rates], known: dict[int, Watch] | None = None) -> set[int]:
    watches = dict.fromkeys(rates, CALM) if known is None else known
    for _ in range(3):
        spared = flood.innocent(watches, rates, 0)
        watches = {
            vm_id: flood.step(watches.get(vm_id, Watch()), rate, 1.0, 0, blamed=vm_id not in spared)
            for vm_id, rate in rates.items()
        }
    return {vm_id for vm_id, watch in watches.items() if watch.flood is not None}


def test_of_a_hundred_vms_only_the_sender_of_a_broadcast_flood_is_named() -> None:
    assert named({1: sending(43_000), **dict.fromkeys(range(2, 101), sent_to(43_000))}) == {1}


def test_a_victim_on_the_same_host_that_answers_each_packet_is_not_named() -> None:
    assert named({1: sending(43_000), 2: sent_to(42_000, replies=42_000)}) == {1}


def test_a_sender_of_which_nothing_is_known_yet_gets_nobody_else_named() -> None:
    rates = {1: sending(43_000), 2: sent_to(43_000)}
    assert named(rates, {2: CALM}) == set()


def test_a_vm_that_is_flooded_from_outside_is_named_also_beside_a_busy_vm() -> None:
    busy = after([sending(30_000)] * 3600)
    assert named({1: sending(30_000), 2: sent_to(43_000)}, {1: busy, 2: CALM}) == {2}


def test_a_small_sender_does_not_cover_a_large_flood_from_outside() -> None:
    assert named({1: sending(21_000), 2: sent_to(90_000)}) == {1, 2}


def test_the_receiver_of_many_bytes_from_another_vm_is_not_named() -> None:
    assert named({1: Rates(0.0, 2e8, 0.0, 0.0, 900.0, 3000.0), 2: Rates(2e8, 0.0, 0.0, 0.0, 3000.0, 900.0)}) == {1}
    assert named({1: Rates(0.0, 2e8), 2: Rates(2e8, 0.0)}) == {1}


def test_what_a_spared_vm_is_sent_does_not_become_usual_for_it() -> None:
    spared = flood.step(CALM, sent_to(43_000), 1.0, 0, blamed=False)
    assert spared.usual == CALM.usual


def test_the_rates_of_all_vifs_of_a_vm_are_added() -> None:
    assert flood.total([QUIET, sending(5.0)]) == Rates(2400.0, 1500.0, 0.0, 0.0, 20.0, 17.0)
    assert flood.total([QUIET, Rates(1.0, 1.0)]).in_packets is None
    assert Usual().means == (0.0,) * 4

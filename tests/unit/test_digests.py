"""Guests that reboot all day: their older bindings become digests, in a real ledger, and no byte is lost.

The file is long: all its tests fold bindings of the same ledger, which its fixtures and helpers make.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.books import BOOT, add_vm, open_ledger, start_vif
from tests.support.clock import utc
from tests.support.effort import cases
from tests.support.killer import killed_at
from tests.support.oldledger import rows, sound
from xenbw.accounting import Pending, Share, hour_of
from xenbw.ledger import digests, file, portions, prune, schema, usagelog, viflog
from xenbw.ledger.ledger import Alive, Ledger, LedgerError
from xenbw.model import ZERO, Amounts, Binding, Counters, Digest, Mark
from xenbw.report.explanation import explain, total
from xenbw.transfer import transfer

FEBRUARY, MARCH, MID_MARCH = utc("2026-02-01"), utc("2026-03-01"), utc("2026-03-15")
NOW = utc("2026-03-20 12:00")
SOME = Amounts(10, 1, 2, 3, 4)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(new_ledger(tmp_path)) as opened:
        yield opened


def new_ledger(folder: Path) -> Ledger:
    """web1 is in March."""
    ledger = open_ledger(folder)
    ledger.set_vm(add_vm(ledger, "web1", FEBRUARY), period_start=MARCH, period_rule="1@UTC")
    return ledger


def live(
    ledger: Ledger,
    number: int,
    amounts: Amounts = SOME,
    at: datetime | None = None,
    *,
    name: str = "web1",
    ips: str = "",
    reason: str = "offline",
    before: Counters = ZERO,
) -> Binding:
    """The VM's life of that number: five seconds, a reading, some bytes, of which `before` were of February."""
    at = at or NOW + timedelta(seconds=10 * number)
    binding = start_vif(ledger, name, at, domid=number + 1, ips=ips)
    end = at + timedelta(seconds=5)
    usagelog.add_readings(ledger, [(binding.id, amounts.usage, amounts.usage)], end)
    count(ledger, binding, amounts, before, end)
    viflog.end(ledger, binding.id, end, reason)
    return binding


def count(ledger: Ledger, binding: Binding, amounts: Amounts, before: Counters, at: datetime) -> None:
    """The daemon commits what the life comes to."""
    here = Counters(amounts.in_bytes - before.in_bytes, amounts.out_bytes - before.out_bytes)
    parts = [(start, part) for start, part in ((FEBRUARY, before), (MARCH, here)) if any(part)]
    usagelog.commit(
        ledger,
        Pending(
            ((binding.id, amounts, Mark(amounts.everything), at),),
            tuple((binding.vm_id, Share(start, hour_of(at), *part, 0)) for start, part in parts),
            tuple((binding.id, start, part) for start, part in parts),
        ),
        Alive(at, 1.0, BOOT),
    )


def fold(ledger: Ledger, keep: int = 2, busy: tuple[int, ...] = ()) -> int:
    return digests.fold(ledger, BOOT, lambda: busy, keep)


def kept(ledger: Ledger) -> list[int]:
    """The numbers of the lives that have a row of their own."""
    return [row[0] - 1 for row in ledger.rows("SELECT domid FROM binding ORDER BY id")]


def told(ledger: Ledger, start: datetime = MARCH) -> list[Digest]:
    vm = ledger.vm_named("web1")
    assert vm is not None
    return digests.of_period(ledger, vm.id, start)


# what is folded


def test_the_latest_bindings_keep_their_rows_and_earlier_ones_become_a_digest_with_their_bytes(ledger: Ledger) -> None:
    for number in range(6):
        live(ledger, number, ips=f"192.0.2.{number % 2}")
    assert fold(ledger) == 4
    assert kept(ledger) == [4, 5]
    assert told(ledger) == [
        Digest(
            lives=4,
            started_at=NOW,
            ended_at=NOW + timedelta(seconds=35),
            end_reason="offline",
            ips=(ip_address("192.0.2.0"), ip_address("192.0.2.1")),
            counted=Amounts(40, 4, 8, 12, 16),
        )
    ]


def test_folding_again_adds_to_the_same_digest_or_changes_nothing(ledger: Ledger) -> None:
    for number in range(6):
        live(ledger, number)
    fold(ledger)
    live(ledger, 6)
    assert fold(ledger) == 1
    before = rows(ledger.path)
    assert fold(ledger) == 0
    assert rows(ledger.path) == before
    (digest,) = told(ledger)
    assert (digest.lives, digest.counted) == (5, Amounts(50, 5, 10, 15, 20))


def test_bindings_with_another_end_reason_have_another_digest(ledger: Ledger) -> None:
    for number, reason in enumerate(("offline", "vanished", "offline", "offline", "offline")):
        live(ledger, number, reason=reason)
    fold(ledger)
    assert {digest.end_reason: digest.lives for digest in told(ledger)} == {"offline": 2, "vanished": 1}


def test_each_vm_has_its_own_digests(ledger: Ledger) -> None:
    ledger.set_vm(add_vm(ledger, "web2", NOW), period_start=MARCH)
    for number in range(6):
        live(ledger, number, name=f"web{number % 2 + 1}")
    assert fold(ledger) == 2
    assert kept(ledger) == [2, 3, 4, 5]


def test_each_month_keeps_its_latest_bindings_however_many_come_later(ledger: Ledger) -> None:
    for number in range(4):
        live(ledger, number, at=FEBRUARY + timedelta(days=number))
    for number in range(4, 8):
        live(ledger, number)
    assert fold(ledger) == 4
    assert kept(ledger) == [2, 3, 6, 7]


def test_many_bindings_are_folded_in_parts_the_oldest_first(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_AT_ONCE", 3)
    for number in range(7):
        live(ledger, number)
    assert [fold(ledger), kept(ledger)] == [3, [3, 4, 5, 6]]
    assert [fold(ledger), fold(ledger), kept(ledger)] == [2, 0, [5, 6]]


def test_the_readings_of_a_folded_binding_are_deleted(ledger: Ledger) -> None:
    for number in range(4):
        live(ledger, number)
    lives = [row[0] for row in ledger.rows("SELECT id FROM binding ORDER BY id")]
    fold(ledger)
    assert [row[0] for row in ledger.rows("SELECT binding_id FROM reading ORDER BY 1")] == lives[2:]


# what is not


def test_a_live_binding_is_not_folded(ledger: Ledger) -> None:
    start_vif(ledger, "web1", NOW, domid=1)
    for number in range(1, 4):
        live(ledger, number)
    fold(ledger)
    assert kept(ledger) == [0, 2, 3]


def test_a_binding_whose_counters_may_still_be_read_is_not_folded(ledger: Ledger) -> None:
    for number in range(4):
        live(ledger, number)
    assert fold(ledger, busy=(100,)) == 1
    assert kept(ledger) == [0, 2, 3]


def test_the_same_ifindex_in_an_earlier_boot_is_another_interface(ledger: Ledger) -> None:
    for number in range(4):
        live(ledger, number)
    assert digests.fold(ledger, "another boot", lambda: (100, 200), 2) == 2


def test_a_binding_whose_interface_is_live_under_another_vm_is_not_folded(ledger: Ledger) -> None:
    first = start_vif(ledger, "web1", NOW, domid=1)
    start_vif(ledger, "web2", NOW, domid=1)
    for number in range(1, 4):
        live(ledger, number)
    fold(ledger)
    assert first.id in [row[0] for row in ledger.rows("SELECT id FROM binding")]


def test_the_addresses_of_a_vm_are_known_after_all_its_bindings_but_one_were_folded(ledger: Ledger) -> None:
    for number in range(4):
        live(ledger, number, ips="192.0.2.7")
    fold(ledger, keep=1)
    assert [binding.ips for binding in viflog.latest(ledger)] == [(ip_address("192.0.2.7"),)]


# periods


def test_usage_of_a_binding_before_the_period_is_in_the_digest_of_the_period_before(
    ledger: Ledger,
) -> None:
    live(ledger, 0, Amounts(10, 1, 2, 3, 4), before=Counters(7, 0))
    for number in (1, 2):
        live(ledger, number)
    fold(ledger)
    (march,), (february,) = told(ledger), told(ledger, FEBRUARY)
    assert (march.lives, march.counted) == (1, Amounts(3, 1, 2, 3, 4))
    assert (february.lives, february.counted) == (0, Amounts(7, 0))


def test_bindings_without_bytes_are_in_the_digest_of_the_period_in_which_they_ended(ledger: Ledger) -> None:
    vm = live(ledger, 0, at=FEBRUARY, before=Counters(10, 1)).vm_id
    for number in (1, 2, 3):
        live(ledger, number, Amounts(0, 0), FEBRUARY + timedelta(days=1))
    for number in (4, 5, 6):
        live(ledger, number, Amounts(0, 0))
    fold(ledger, keep=1)
    assert [digest.lives for digest in digests.of_period(ledger, vm, FEBRUARY)] == [3]
    assert [digest.lives for digest in told(ledger)] == [2]


@pytest.mark.parametrize("recorded", [True, False], ids=["refiled", "only reckoned"])
def test_a_period_with_another_beginning_takes_digests_that_lie_wholly_in_it(ledger: Ledger, recorded: bool) -> None:
    for number in range(4):
        vm_id = live(ledger, number, reason="vanished" if number else "offline", at=MARCH + timedelta(days=6 * number))
    fold(ledger, keep=1)
    if recorded:
        usagelog.refile(ledger, vm_id.vm_id, utc("2026-03-06"), "6@UTC")
    found = digests.of_period(ledger, vm_id.vm_id, utc("2026-03-06"), refiled=not recorded)
    assert [(digest.end_reason, digest.lives, digest.counted.in_bytes) for digest in found] == [("vanished", 2, 20)]
    assert [digest.end_reason for digest in told(ledger)] == (["offline"] if recorded else ["offline", "vanished"])


# every byte


def whole(ledger: Ledger) -> list[tuple[int, ...]]:
    """What the lives and the digests come to together, row by row of what must never change."""
    usage = ledger.rows(
        "SELECT period_start, sum(in_bytes), sum(out_bytes) FROM (SELECT period_start, in_bytes, out_bytes FROM digest"
        " UNION ALL SELECT period_start, in_bytes, out_bytes FROM binding_usage)"
        " GROUP BY period_start HAVING sum(in_bytes + out_bytes)"
    )
    beside = ledger.rows(
        "SELECT sum(lives), sum(flood_bytes), sum(refused_in_bytes), sum(refused_out_bytes) FROM"
        " (SELECT lives, flood_bytes, refused_in_bytes, refused_out_bytes FROM digest"
        " UNION ALL SELECT 1, flood_bytes, refused_in_bytes, refused_out_bytes FROM binding)"
    )
    return [tuple(row) for row in (*usage, *beside)]


class Life(NamedTuple):
    """One that hypothesis makes up."""

    amounts: Amounts
    before: int
    days: int
    reason: str


LIVES = st.builds(
    Life,
    st.builds(Amounts, *[st.integers(0, 2**40)] * 5),
    st.integers(0, 3),
    st.integers(-30, 10),
    st.sampled_from(["offline", "vanished"]),
)


@settings(max_examples=cases(10, 40), deadline=None)
@given(lives=st.lists(LIVES, max_size=14), keep=st.integers(1, 3), busy=st.integers(0, 14), reset=st.integers(1, 28))
def test_usage_and_sums_never_change_whatever_is_folded_and_when(
    tmp_path_factory: pytest.TempPathFactory, lives: list[Life], keep: int, busy: int, reset: int
) -> None:
    with closing(new_ledger(tmp_path_factory.mktemp("ledger"))) as ledger:
        for number, one in enumerate(lives):
            before = Counters(one.amounts.in_bytes * one.before // 3, 0)
            at = NOW + timedelta(days=one.days, seconds=number)
            live(ledger, number, one.amounts, at, reason=one.reason, before=before)
            expected = whole(ledger)
            fold(ledger, keep, (100 * busy,))
            assert whole(ledger) == expected
        vm = ledger.vm_named("web1")
        assert vm is not None
        for start in (MARCH, utc(f"2026-03-{reset:02}")):
            usagelog.refile(ledger, vm.id, start, f"{start.day}@UTC")
            here = usagelog.of_period(ledger, vm.id, start)
            found = digests.of_period(ledger, vm.id, start)
            assert total(explain(portions.lives(ledger, vm.id, start), here, ZERO, found)) == here
            expected = whole(ledger)
            fold(ledger, keep)
            assert whole(ledger) == expected


# killed on the way


def fold_anew(folder: Path) -> None:
    fold(open_ledger(folder))


def test_a_process_killed_at_any_line_of_folding_has_folded_all_or_nothing(tmp_path: Path) -> None:
    line, seen = 0, set()
    while True:
        folder = tmp_path / str(line)
        folder.mkdir()
        with closing(new_ledger(folder)) as ledger:
            for number in range(4):
                live(ledger, number, before=Counters(number, 0))
            expected = whole(ledger)
        killed = killed_at(line, [digests, file], partial(fold_anew, folder))
        with closing(open_ledger(folder)) as ledger:
            assert whole(ledger) == expected
            seen.add(len(kept(ledger)))
            fold(ledger)
            assert (kept(ledger), whole(ledger)) == ([2, 3], expected)
        assert sound(folder / "ledger.db")
        if not killed:
            break
        line += cases(5, 1)
    assert line > 20
    assert seen == {2, 4}


# beside the rest of the ledger


def test_digests_older_than_the_kept_history_are_pruned(ledger: Ledger) -> None:
    for number in range(4):
        live(ledger, number)
    fold(ledger)
    prune.prune(ledger, NOW - timedelta(days=1), NOW - timedelta(days=1))
    assert len(told(ledger)) == 1
    prune.prune(ledger, NOW + timedelta(days=1), NOW + timedelta(days=1))
    assert told(ledger) == []


def test_a_ledger_with_digests_can_be_exported_and_imported(ledger: Ledger, tmp_path: Path) -> None:
    for number in range(4):
        live(ledger, number)
    fold(ledger)
    records = list(transfer.records(ledger))
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "ledger.db"
    with closing(Ledger.open(other, create=True)) as fresh, transfer.filling(fresh, schema.VERSION) as filling:
        for record in records:
            filling.take(record)
    assert rows(other)["digest"] == rows(ledger.path)["digest"] != []


def test_folding_that_fails_at_a_lock_can_be_done_later(ledger: Ledger) -> None:
    for number in range(4):
        live(ledger, number)
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as hook:
        hook.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError):
            fold(ledger)
        hook.execute("COMMIT")
    assert json.dumps(kept(ledger)) == "[0, 1, 2, 3]"
    assert fold(ledger) == 2

"""The log's lines on VMs that start again and again, and on an xenstored that is slow all the time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.books import start_vif
from tests.support.clock import utc
from xenbw.accounting import Tally
from xenbw.ledger import viflog
from xenbw.ledger.ledger import Ledger
from xenbw.tell.journal import NOTICE
from xenbw.vifs.census import Census
from xenbw.vifs.churn import Churn
from xenbw.xen.xenstore import Answer, Lookup, StoreError

NOW = utc("2026-03-20 12:00")


@pytest.fixture
def churn(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> Churn:
    caplog.set_level(logging.INFO)
    return Churn(ledger)


def lives(ledger: Ledger, count: int, at: datetime, *, vifs: int = 1, name: str = "web1") -> None:
    """The VM starts and stops that many times."""
    for _ in range(count):
        (known,) = ledger.rows("SELECT count(*) FROM binding")[0]
        for devid in range(vifs):
            binding = start_vif(ledger, name, at, domid=known + 1, devid=devid)
            viflog.end(ledger, binding.id, at, "offline")


def minute(number: int) -> datetime:
    return NOW + timedelta(minutes=number)


def test_a_vm_that_starts_now_and_then_is_not_reported(
    churn: Churn, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(60):
        lives(ledger, 1, minute(number))
        churn.look(minute(number))
    assert caplog.messages == []


def test_a_vm_that_starts_again_and_again_is_one_line_every_ten_minutes_and_one_at_the_end(
    churn: Churn, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(25):
        lives(ledger, 4, minute(number))
        churn.look(minute(number))
    for number in range(25, 60):
        churn.look(minute(number))
    lasts = "logged every 10 minutes while that lasts"
    assert caplog.messages == [
        f"web1: started 12 times in the last 10 minutes; {lasts}",
        f"web1: started 40 times in the last 10 minutes; {lasts}",
        f"web1: started 40 times in the last 10 minutes; {lasts}",
        "web1: started 8 times in the last 10 minutes; starts are logged one by one again",
    ]
    assert {record.levelno for record in caplog.records} == {NOTICE}


def test_many_interfaces_that_start_at_once_are_one_start(
    churn: Churn, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    lives(ledger, 5, NOW, vifs=8)
    churn.look(NOW)
    assert caplog.messages == []


def test_bindings_older_than_the_daemon_are_no_starts(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lives(ledger, 20, NOW)
    Churn(ledger).look(NOW)
    assert caplog.messages == []


def test_lines_on_single_starts_stop_after_ten_and_begin_again_later(churn: Churn) -> None:
    assert [churn.quiet("web1", NOW) for _ in range(12)] == [False] * 10 + [True] * 2
    assert not churn.quiet("web2", NOW)
    assert not churn.quiet("web1", minute(10))


def test_a_vm_with_a_line_every_ten_minutes_has_no_lines_on_single_starts(churn: Churn, ledger: Ledger) -> None:
    lives(ledger, 11, NOW)
    churn.look(NOW)
    assert churn.quiet("web1", NOW)
    churn.look(minute(11))
    assert not churn.quiet("web1", minute(11))


@pytest.fixture
def census(ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Census]:
    caplog.set_level(logging.INFO)
    with closing(Lookup(str(tmp_path / "nobody"))) as lookup:
        yield Census(ledger, lookup, Tally(), "boot", lambda life: False)


def unanswered(count: int, why: str = "no answer") -> list[Answer]:
    return [Answer(domid, 0, None, StoreError(why)) for domid in range(1, count + 1)]


def test_a_vif_that_began_by_a_clock_that_was_ahead_is_not_asked_about_each_second(
    census: Census, ledger: Ledger
) -> None:
    for domid, began in enumerate((NOW, NOW + timedelta(hours=2)), 1):
        start_vif(ledger, f"web{domid}", began, domid=domid, boot_id="boot")
    census.load(ledger.vms())
    assert [binding.domid for binding in census.unsettled(NOW + timedelta(seconds=1))] == [1]


def test_a_slow_xenstored_is_one_line_in_ten_minutes_however_many_vifs_are_asked_about(
    census: Census, caplog: pytest.LogCaptureFixture
) -> None:
    for second in range(600):
        census.hear([*unanswered(6), Answer(7, 0, None)], NOW + timedelta(seconds=second))
    assert caplog.messages == ["xenstore: no answer"]
    census.hear(unanswered(6), minute(10))
    assert caplog.messages == ["xenstore: no answer"] * 2


def test_another_error_of_xenstored_is_logged_at_once_and_a_clock_that_is_set_back_hides_none(
    census: Census, caplog: pytest.LogCaptureFixture
) -> None:
    census.hear([*unanswered(2), *unanswered(2, "refused")], NOW)
    census.hear(unanswered(2), NOW - timedelta(days=1))
    assert caplog.messages == ["xenstore: no answer", "xenstore: refused", "xenstore: no answer"]

"""A recipient whose server refuses a mail for now, while others take it, gets a copy of his own later."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.clock import HandClock, utc
from tests.support.mailserver import Mailbox, serve
from xenbw.config import LedgerSection, MailSection, Settings
from xenbw.ledger import eventlog, outbox
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.tell.courier import Courier
from xenbw.tell.delivery import Pace

AT = utc("2026-03-29 12:30")
GREY, NOC = "grey@example.com", "noc@example.com"


@pytest.fixture
def mailbox() -> Mailbox:
    """A server that refuses GREY for now."""
    mailbox = Mailbox()
    mailbox.at_recipient[GREY] = "450 greylisted, try again"
    return mailbox


@pytest.fixture
def clock() -> HandClock:
    return HandClock(AT)


@pytest.fixture
def courier(ledger: Ledger, tmp_path: Path, mailbox: Mailbox, clock: HandClock) -> Iterator[Courier]:
    with serve(mailbox) as port:
        mail = MailSection(to=(GREY, NOC), host="127.0.0.1", port=port)
        yield Courier(Settings(mail=mail, ledger=LedgerSection(path=ledger.path)), clock, Pace(lock=0.0))


def later(courier: Courier, clock: HandClock) -> None:
    clock.go(minutes=5)
    courier.look()


def test_the_copy_goes_to_him_alone_and_is_the_same_mail(
    courier: Courier, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    outbox.queue(ledger, AT, "over", "text", kind="null-routed", facts='{"vm": "web1"}')
    courier.look()
    assert mailbox.recipients == [[NOC]]
    courier.look()
    assert outbox.waiting(ledger) == 1
    del mailbox.at_recipient[GREY]
    later(courier, clock)
    assert mailbox.recipients == [[NOC], [GREY]]
    first, copy = mailbox.read(0), mailbox.read(1)
    assert (copy["Subject"], copy["Date"]) == (first["Subject"], first["Date"])
    assert outbox.waiting(ledger) == 0
    assert eventlog.newest(ledger, 10) == []


def test_few_copies_wait_for_one_who_is_refused_for_days(
    courier: Courier, ledger: Ledger, clock: HandClock, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xenbw.tell.delivery._COPIES", 5)
    for number in range(8):
        clock.go(minutes=1)
        outbox.queue(ledger, clock.wall, f"over {number}", "text")
        courier.look()
    assert mailbox.recipients == [[NOC]] * 8
    assert outbox.waiting(ledger) == 5
    assert [kind for _, kind, _ in eventlog.newest(ledger, 10)] == ["mail-refused"] * 3


def test_a_locked_ledger_loses_no_copy(courier: Courier, ledger: Ledger, clock: HandClock, mailbox: Mailbox) -> None:
    outbox.queue(ledger, AT, "over", "text")
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError):
            courier.look()
    del mailbox.at_recipient[GREY]
    courier.look()
    later(courier, clock)
    assert mailbox.recipients == [[NOC], [GREY]]
    assert outbox.waiting(ledger) == 0

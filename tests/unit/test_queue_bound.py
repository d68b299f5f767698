"""A queue that is never longer than its bound: what goes first, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.clock import HandClock
from tests.support.guarded import END, NOW, Host, MethodStandIn
from tests.support.mailserver import Mailbox, serve
from xenbw.config import CommandSection, DaemonSection, HostSection, LedgerSection, MailSection, Settings
from xenbw.ledger import eventlog, outbox
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.outbox import DROPPED, MOST, Channel, Queue
from xenbw.tell.courier import Courier
from xenbw.tell.gather import URGENT

MAIL = Queue(Channel.MAIL)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger.open(tmp_path / "ledger.db", create=True)) as opened:
        yield opened


def settings(ledger: Ledger, port: int = 25) -> Settings:
    return Settings(
        host=HostSection("dom0-7"),
        daemon=DaemonSection(run_dir=ledger.path.parent),
        ledger=LedgerSection(path=ledger.path),
        mail=MailSection(to=("noc@example.com",), host="127.0.0.1", port=port),
        command=CommandSection(run=("/bin/true",)),
    )


def fill(ledger: Ledger, count: int, kind: str = "warned", queue: Queue = MAIL) -> None:
    with ledger.transaction():
        for _ in range(count):
            outbox.queue(ledger, NOW, kind, "{}", *queue, kind=kind)


def waiting(ledger: Ledger, queue: Queue = MAIL) -> list[outbox.Message]:
    return outbox.due(ledger, END, END + timedelta(hours=1), [queue], most=2 * MOST)


def test_a_queue_within_its_bound_loses_nothing(ledger: Ledger) -> None:
    fill(ledger, 10)
    assert outbox.keep_bound(ledger, MAIL, URGENT, most=10) == (0, 0)
    assert len(waiting(ledger)) == 10


def test_the_oldest_go_first_and_blocks_last(ledger: Ledger) -> None:
    fill(ledger, 2, "null-routed")
    fill(ledger, 4, "warned")
    fill(ledger, 5, "released")
    assert outbox.keep_bound(ledger, MAIL, URGENT, most=10) == (5, 5)
    assert [message.kind for message in waiting(ledger)] == ["null-routed"] * 2 + ["released"] * 4
    fill(ledger, 10, "null-routed")
    outbox.keep_bound(ledger, MAIL, URGENT, most=10)
    assert [message.kind for message in waiting(ledger)] == ["null-routed"] * 11


def test_messages_that_go_together_already_stay_together_as_long_as_others_are_left(ledger: Ledger) -> None:
    fill(ledger, 11)
    outbox.bundle(ledger, waiting(ledger)[:3])
    outbox.keep_bound(ledger, MAIL, URGENT, most=10)
    assert [message.id for message in waiting(ledger)] == [1, 2, 3, 9, 10, 11]


def test_each_queue_has_a_bound_of_its_own(ledger: Ledger) -> None:
    fill(ledger, 8)
    fill(ledger, 8, queue=Queue(Channel.COMMAND))
    assert outbox.keep_bound(ledger, MAIL, URGENT, most=10) == (0, 0)


def test_a_full_queue_loses_messages_and_one_event_and_one_message_tell_how_many(ledger: Ledger) -> None:
    fill(ledger, MOST)
    host = Host(ledger, settings(ledger), MethodStandIn())
    host.judge(1001)
    assert len(waiting(ledger)) == MOST + 1 - 100 + 1
    kinds = [kind for _, kind, _ in eventlog.newest(ledger, 10)]
    assert sorted(kinds) == [DROPPED, "null-routed"]
    (told,) = (message for message in waiting(ledger) if message.kind == DROPPED)
    assert told.subject == "[xenbw] dom0-7: 100 messages were dropped"
    assert waiting(ledger, Queue(Channel.COMMAND))[0].kind == "null-routed"


def test_a_queue_that_stays_full_has_one_message_with_the_sum(ledger: Ledger) -> None:
    host = Host(ledger, settings(ledger), MethodStandIn())
    fill(ledger, MOST)
    host.judge(1001)
    fill(ledger, 100)
    host.new_period()
    host.judge(0)
    told = [message for message in waiting(ledger) if message.kind == DROPPED]
    assert len(told) == 1
    assert told[0].facts is not None
    assert json.loads(told[0].facts)["dropped"] == 200
    events = [text for _, kind, text in eventlog.newest(ledger, 100) if kind == DROPPED]
    assert set(events) == {"100 messages that waited for mail were dropped, because too many waited"}


def test_a_command_reads_that_messages_were_dropped_with_the_keys_of_any_announcement(ledger: Ledger) -> None:
    queue = Queue(Channel.COMMAND)
    fill(ledger, MOST, queue=queue)
    host = Host(ledger, settings(ledger), MethodStandIn())
    host.judge(1001)
    by_kind = {message.kind: json.loads(message.body) for message in waiting(ledger, queue)}
    told = by_kind[DROPPED]
    assert set(told) == {*by_kind["null-routed"], "dropped"}
    assert (told["kind"], told["vm"], told["dropped"]) == (DROPPED, None, 100)
    assert told["reason"] == "100 messages that waited for command were dropped"


def test_the_mail_about_dropped_messages_arrives(ledger: Ledger) -> None:
    mailbox = Mailbox()
    fill(ledger, MOST)
    with serve(mailbox) as port:
        host = Host(ledger, settings(ledger, port), MethodStandIn())
        host.judge(1001)
        with ledger.transaction() as db:
            db.execute("DELETE FROM outbox WHERE kind = 'warned'")
        Courier(host.settings, HandClock(NOW + timedelta(minutes=1))).look()
    texts = {mailbox.read(number)["Subject"]: mailbox.text(number) for number in (0, 1)}
    assert "The latest events of a VM: xenbw show VM\n" in texts["[xenbw] dom0-7: 100 messages were dropped"]

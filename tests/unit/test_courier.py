from __future__ import annotations

import fcntl
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.clock import HandClock, utc
from tests.support.mailserver import Mailbox, free_port, serve
from tests.support.pace import busy
from xenbw.config import LedgerSection, MailSection, Settings
from xenbw.daemon.loop import Daemon
from xenbw.ledger import eventlog, outbox
from xenbw.ledger.ledger import Ledger
from xenbw.tell.courier import Courier
from xenbw.tell.delivery import Pace
from xenbw.tell.letter import Letterhead

AT = utc("2026-03-29 12:30")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def clock() -> HandClock:
    return HandClock(AT)


def courier(path: Path, clock: HandClock, port: int, pace: Pace | None = None) -> Courier:
    mail = MailSection(to=("noc@example.com",), host="127.0.0.1", port=port)
    return Courier(Settings(mail=mail, ledger=LedgerSection(path=path)), clock, pace or Pace())


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + busy(3)
    while not holds() and time.monotonic() < end:
        time.sleep(0.005)
    return holds()


def kinds(ledger: Ledger) -> list[str]:
    return [kind for _, kind, _ in eventlog.newest(ledger, 10)]


# the thread


def test_a_courier_that_ends_before_its_message_is_marked_leaves_the_queue_to_the_next(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    with serve(mailbox) as port:
        thread = courier(path, clock, port, Pace(lock=0.0))
        outbox.queue(ledger, AT, "over", "web1 is over\n")
        with ledger.transaction():
            thread.start()
            assert mailbox.arrived.wait(busy(3))
            assert eventually(lambda: thread.problem is not None)
            thread.stop()
        with path.with_name("ledger.db.mail.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_queued_message_is_sent_at_once_when_the_courier_is_woken(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    with serve(mailbox) as port:
        thread = courier(path, clock, port)
        thread.start()
        outbox.queue(ledger, AT, "over", "web1 is over\n")
        thread.wake()
        assert mailbox.arrived.wait(busy(3))
        assert eventually(lambda: outbox.waiting(ledger) == 0)
        thread.stop()
    assert mailbox.read()["Subject"] == "over"
    assert not thread.is_alive()


def test_messages_that_waited_while_no_daemon_ran_are_sent_once_at_the_start_oldest_first(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    for subject in ("first", "second", "third"):
        outbox.queue(ledger, AT, subject, "text")
    with serve(mailbox) as port:
        thread = courier(path, clock, port, Pace(look=0.01))
        thread.start()
        assert eventually(lambda: outbox.waiting(ledger) == 0)
        time.sleep(0.05)
        thread.stop()
    assert [mailbox.read(number)["Subject"] for number in range(len(mailbox.letters))] == ["first", "second", "third"]


def test_a_ledger_that_is_missing_does_not_end_the_thread(path: Path, clock: HandClock, mailbox: Mailbox) -> None:
    with serve(mailbox) as port:
        thread = courier(path, clock, port, Pace(look=0.01))
        thread.start()
        assert eventually(lambda: thread.problem is not None)
        with closing(Ledger.open(path, create=True)) as ledger:
            outbox.queue(ledger, AT, "late", "text")
            assert mailbox.arrived.wait(busy(3))
        thread.stop()


def test_stopping_does_not_wait_for_a_silent_server(path: Path, ledger: Ledger, clock: HandClock) -> None:
    outbox.queue(ledger, AT, "over", "text")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        thread = courier(path, clock, silent.getsockname()[1])
        thread.start()
        connection, _ = silent.accept()
        begin = time.monotonic()
        thread.stop(grace=0.1)
        assert time.monotonic() - begin < busy(0.5)
        connection.close()
        thread.join(3)
    assert outbox.waiting(ledger) == 1


def test_stopping_an_idle_courier_is_immediate(path: Path, ledger: Ledger, clock: HandClock) -> None:
    thread = courier(path, clock, free_port())
    thread.start()
    begin = time.monotonic()
    thread.stop()
    assert time.monotonic() - begin < busy(0.5)
    assert not thread.is_alive()


def test_looking_into_an_empty_outbox_writes_nothing(path: Path, ledger: Ledger, clock: HandClock) -> None:
    ledger.changed_by_others()
    courier(path, clock, free_port()).look()
    assert not ledger.changed_by_others()


def test_a_daemon_that_sends_nothing_loads_no_mail_library() -> None:
    code = "import sys, xenbw.tell.courier; print(*sorted({'smtplib', 'email', 'ssl'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


# a server that is down, and comes back


def test_while_the_server_is_away_the_pause_doubles_from_a_minute_to_an_hour(
    path: Path, ledger: Ledger, clock: HandClock
) -> None:
    outbox.queue(ledger, AT, "over", "text")
    sender = courier(path, clock, free_port())
    pauses = []
    for _ in range(8):
        before = clock.wall
        sender.look()
        assert sender.problem is not None
        while not outbox.due(ledger, clock.wall, clock.wall + timedelta(hours=1)):
            clock.go(minutes=1)
        pauses.append((clock.wall - before) // timedelta(minutes=1))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_the_pause_stays_an_hour_after_any_number_of_failures() -> None:
    assert Pace().pause(10**6) == timedelta(hours=1)


def test_when_the_server_is_back_the_message_arrives_and_the_problem_is_over(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    outbox.queue(ledger, AT, "over", "text")
    port = free_port()
    sender = courier(path, clock, port)
    sender.look()
    assert sender.problem is not None
    clock.go(minutes=1)
    with serve(mailbox, port=port):
        sender.look()
    assert len(mailbox.letters) == 1
    assert sender.problem is None
    assert outbox.waiting(ledger) == 0


def test_a_message_refused_for_now_is_kept_and_others_are_sent_meanwhile(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    outbox.queue(ledger, AT, "over", "text")
    mailbox.at_data = "451 try later"
    with serve(mailbox) as port:
        sender = courier(path, clock, port)
        sender.look()
        mailbox.at_data = "250 OK"
        outbox.queue(ledger, AT, "another", "text")
        sender.look()
        assert [mailbox.read(0)["Subject"]] == ["another"]
        clock.go(minutes=1)
        sender.look()
    assert mailbox.read()["Subject"] == "over"
    assert kinds(ledger) == []


def test_a_message_that_failed_for_a_week_is_given_up_with_an_event(
    path: Path, ledger: Ledger, clock: HandClock
) -> None:
    outbox.queue(ledger, AT, "over", "text")
    sender = courier(path, clock, free_port())
    clock.go(days=6, hours=23)
    sender.look()
    assert outbox.waiting(ledger) == 1
    clock.go(hours=1)
    sender.look()
    assert outbox.waiting(ledger) == 0
    ((_, kind, text),) = eventlog.newest(ledger, 10)
    assert kind == "mail-failed"
    assert text.startswith("mail 'over' was given up: mail server 127.0.0.1")


def test_a_message_for_which_the_carrier_has_a_bug_is_given_up_and_the_others_go_out(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Letterhead.write

    def fail(self: Letterhead, subject: str, *rest: Any) -> bytes:
        if subject == "bad":
            raise ValueError("what nobody expected")
        return write(self, subject, *rest)

    monkeypatch.setattr(Letterhead, "write", fail)
    for subject in ("bad", "good"):
        outbox.queue(ledger, AT, subject, "text")
    with serve(mailbox) as port:
        courier(path, clock, port).look()
    assert mailbox.read()["Subject"] == "good"
    ((_, kind, text),) = eventlog.newest(ledger, 10)
    assert (kind, text) == ("mail-failed", "mail 'bad' was given up: ValueError: what nobody expected")


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'email'"),
        MemoryError(),
        OSError(24, "Too many open files"),
        RuntimeError("can't start new thread"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_message_that_the_host_cannot_send_for_now_is_kept(
    error: Exception, path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> bytes:
        raise error

    outbox.queue(ledger, AT, "over", "text")
    with serve(mailbox) as port:
        thread = courier(path, clock, port)
        with monkeypatch.context() as patch:
            patch.setattr(Letterhead, "write", fail)
            thread.look()
        assert thread.problem == f"{type(error).__name__}: {error}"
        clock.go(minutes=1)
        thread.look()
    assert mailbox.read()["Subject"] == "over"
    assert kinds(ledger) == []


def test_the_status_tells_of_a_courier_that_ended(path: Path, clock: HandClock) -> None:
    ended = courier(path, clock, free_port())  # as good as one that never began
    daemon = cast("Daemon", SimpleNamespace(_courier=ended, _sync=None))
    (problem,) = Daemon._with_threads(daemon, {"problems": []})["problems"]
    assert problem.startswith("messages: their thread has ended")


def test_a_message_refused_for_good_is_not_tried_again_and_is_an_event(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    outbox.queue(ledger, AT, "over", "text")
    mailbox.at_data = "554 no"
    with serve(mailbox) as port:
        sender = courier(path, clock, port)
        sender.look()
        mailbox.at_data = "250 OK"
        clock.go(days=1)
        sender.look()
    assert mailbox.letters == []
    assert outbox.waiting(ledger) == 0
    assert kinds(ledger) == ["mail-failed"]


def test_a_recipient_that_is_refused_while_others_are_accepted_is_an_event(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    outbox.queue(ledger, AT, "over", "text")
    mailbox.at_recipient["gone@example.com"] = "550 no such user"
    with serve(mailbox) as port:
        mail = MailSection(to=("gone@example.com", "noc@example.com"), host="127.0.0.1", port=port)
        Courier(Settings(mail=mail, ledger=LedgerSection(path=path)), clock).look()
    assert eventlog.newest(ledger, 1)[0][1:] == (
        "mail-refused",
        "mail 'over' to gone@example.com was refused: 550 no such user",
    )
    assert outbox.waiting(ledger) == 0


# once, as far as SMTP allows


def test_an_accepted_message_that_could_not_be_marked_is_marked_later_and_not_sent_again(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    outbox.queue(ledger, AT, "over", "text")
    with serve(mailbox) as port:
        thread = courier(path, clock, port, Pace(look=0.01, lock=0.0))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            thread.start()
            assert eventually(lambda: thread.problem is not None)
            assert outbox.waiting(ledger) == 1
        assert eventually(lambda: outbox.waiting(ledger) == 0)
        assert eventually(lambda: thread.problem is None)
        thread.stop()
    assert len(mailbox.letters) == 1


def test_a_repeat_after_a_crash_has_the_same_message_id(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    outbox.queue(ledger, AT, "over", "text")
    with serve(mailbox) as port:
        courier(path, clock, port).look()
        with ledger.transaction() as db:
            db.execute("UPDATE outbox SET sent_at = NULL")  # as if the process had ended before it marked the message
        clock.go(minutes=5)
        courier(path, clock, port).look()
    assert len(mailbox.letters) == 2
    assert mailbox.letters[0] == mailbox.letters[1]


def test_a_message_of_a_new_ledger_has_another_message_id(path: Path, clock: HandClock, mailbox: Mailbox) -> None:
    with serve(mailbox) as port:
        for _ in range(2):
            with closing(Ledger.open(path, create=True)) as ledger:
                outbox.queue(ledger, clock.wall, "over", "text")
            courier(path, clock, port).look()
            for file in path.parent.glob("ledger.db*"):
                file.unlink()
            clock.go(hours=1)
    assert mailbox.read(0)["Message-ID"] != mailbox.read(1)["Message-ID"]


def test_a_message_queued_by_a_clock_that_was_years_ahead_is_sent_now(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    outbox.queue(ledger, utc("2040-01-01"), "over", "text")
    with serve(mailbox) as port:
        courier(path, clock, port).look()
    assert len(mailbox.letters) == 1

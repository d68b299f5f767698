"""Many messages in one mail: composed, sent by a real SMTP server, and repeated as the same mail."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.support.books import add_vm
from tests.support.clock import HandClock, utc
from tests.support.guarded import END, NOW, Host, MethodStandIn
from tests.support.mailserver import Mailbox, free_port, serve
from xenbw import checks
from xenbw.config import CommandSection, DaemonSection, HostSection, LedgerSection, MailSection, Settings
from xenbw.ledger import eventlog, outbox
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.outbox import Channel
from xenbw.model import Counters
from xenbw.tell import announcement, digest
from xenbw.tell.alarm import Trouble
from xenbw.tell.courier import Courier

AT = utc("2026-04-01")
LARGEST = 100_000
ODD = "<b>&amp;\r\nBcc: x@y\n--=_xenbw.1\u202e\U0001f600" + "w" * 200


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def clock() -> HandClock:
    return HandClock(AT)


def settings(path: Path, port: int, **sections: CommandSection) -> Settings:
    mail = MailSection(to=("noc@example.com",), host="127.0.0.1", port=port)
    ledger, daemon = LedgerSection(path=path), DaemonSection(run_dir=path.parent)
    return Settings(host=HostSection("dom0-7"), mail=mail, ledger=ledger, daemon=daemon, **sections)


def queue(
    ledger: Ledger, count: int, kind: str = "released", reason: str = "a new period began", **facts: object
) -> None:
    with ledger.transaction():
        for number in range(count):
            vm = facts.get("vm", f"web{number:04}.customers.example.net")
            told = json.dumps({"kind": kind, "vm": vm, "reason": reason, "addresses": ["192.0.2.1"], **facts})
            outbox.queue(ledger, AT, f"[xenbw] {vm}: {kind}", f"{vm}: {reason}\n" * 8, kind=kind, facts=told)


def delivered(path: Path, clock: HandClock, mailbox: Mailbox) -> Courier:
    """What the daemon sends when its time has come."""
    with serve(mailbox) as port:
        courier = Courier(settings(path, port), clock)
        courier.look()
        clock.go(seconds=6)
        while courier.look():
            pass
    return courier


def ids(text: str) -> list[str]:
    """The ids that a digest lists."""
    lines = re.findall(r"^  (\d{14}): ([\d ]+)$", text.partition("Ids of these messages")[2], re.MULTILINE)
    return [f"{number}.{second}" for second, numbers in lines for number in numbers.split()]


def test_the_releases_of_1000_vms_on_a_first_of_a_month_are_one_mail_under_100_kb(
    path: Path, ledger: Ledger, mailbox: Mailbox
) -> None:
    host = Host(ledger, settings(path, free_port()), MethodStandIn())
    names = [f"web{number:04}.customers.example.net" for number in range(999)]
    for name in names:
        host.usage[add_vm(ledger, name, NOW, limit_bytes=1000)] = Counters(1001, 0)
    host.judge(1001)
    with ledger.transaction() as db:
        db.execute("DELETE FROM outbox")
    host.new_period()
    host.judge()
    assert outbox.waiting(ledger) == 1000
    waiting = [message.name for message in outbox.due(ledger, END, END + timedelta(hours=1), most=2000)]
    delivered(path, HandClock(END), mailbox)
    (letter,) = mailbox.letters
    assert len(letter) < LARGEST
    assert mailbox.read()["Subject"] == "[xenbw] dom0-7: 1000 messages: 1000 released"
    assert sorted(ids(mailbox.text())) == sorted(waiting)
    assert set(names) <= set(mailbox.text().replace(" ", "").split("\n"))
    assert outbox.waiting(ledger) == 0


def test_a_digest_has_a_line_for_each_vm_by_kind_the_most_urgent_first(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    queue(ledger, 2, vm="web1")
    queue(ledger, 2, "warned", "used 81 %", vm="web2")
    queue(ledger, 1, "null-routed", "used 2 GB of 1 GB", vm="web3")
    queue(ledger, 1, "null-routed", "blocked by the admin", vm="web4", addresses=[])
    delivered(path, clock, mailbox)
    (_,) = mailbox.letters
    assert mailbox.read()["Subject"] == "[xenbw] dom0-7: 6 messages: 2 null-routed, 2 warned, 2 released"
    summary = mailbox.text().partition("\n---")[0]
    assert summary == (
        "6 messages of xenbw on dom0-7.\n\n"
        "Null-routed (2)\n  web3: used 2 GB of 1 GB\n"
        "  web4: blocked by the admin; NO ADDRESS OF IT IS KNOWN, its traffic still passes\n\n"
        "Traffic warnings (2): used 81 %\n  web2\n  web2\n\n"
        "Released (2): a new period began\n  web1\n  web1\n"
    )


def test_a_trouble_of_the_host_is_listed_by_its_subject(ledger: Ledger) -> None:
    trouble = Trouble("dom0-7", "meter", "the meter is degraded", AT, ZoneInfo("UTC"))
    for told in (announcement.trouble(trouble), announcement.trouble_over(trouble)):
        outbox.queue(ledger, AT, told.subject, told.body, kind=told.kind, facts=told.document)
    text = digest.text_of(outbox.due(ledger, AT, AT + timedelta(hours=1)), "dom0-7")
    assert "TROUBLES OF THE HOST (1)\n  [xenbw] dom0-7: trouble: the meter is degraded\n" in text
    assert "Troubles of the host that are over (1)\n  [xenbw] dom0-7: over: the meter is degraded\n" in text


def test_every_kind_of_announcement_has_a_heading(ledger: Ledger) -> None:
    for kind in checks.KINDS:
        outbox.queue(ledger, AT, kind, "text\n", kind=kind, facts=json.dumps({"vm": "web1"}))
    text = digest.text_of(outbox.due(ledger, AT, AT + timedelta(hours=1)), "dom0-7")
    assert not [kind for kind in checks.KINDS if f"\n{kind} (1)\n" in text]


def test_a_short_digest_repeats_the_messages_and_a_long_one_says_where_they_are(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    queue(ledger, 6)
    delivered(path, clock, mailbox)
    assert mailbox.text().count("--- [xenbw] web0003.customers.example.net: released\n") == 1
    clock.go(minutes=5)
    queue(ledger, 300)
    delivered(path, clock, mailbox)
    assert "\n---" not in mailbox.text()
    assert "The latest events of a VM: xenbw show VM\n" in mailbox.text()


def test_a_message_alone_stays_a_mail_of_its_own_and_is_sent_at_once(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    queue(ledger, 5)
    with serve(mailbox) as port:
        Courier(settings(path, port), clock).look()
    assert [letter["Subject"] for letter in map(mailbox.read, range(5))] == [
        f"[xenbw] web{number:04}.customers.example.net: released" for number in range(5)
    ]


def test_only_mails_go_together(path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox) -> None:
    for number in range(50):
        outbox.queue(ledger, AT, str(number), "{}", Channel.COMMAND)
    queue(ledger, 50)
    with serve(mailbox) as port:
        courier = Courier(settings(path, port, command=CommandSection(run=("/bin/false",))), clock)
        clock.go(seconds=6)
        courier.look()
    waiting = outbox.waiting_by_channel(ledger)
    assert (waiting[Channel.MAIL].count, waiting[Channel.COMMAND].count, len(mailbox.letters)) == (0, 50, 1)


def test_names_of_guests_neither_break_a_digest_nor_add_to_it(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    queue(ledger, 400, vm=ODD, reason=ODD)
    delivered(path, clock, mailbox)
    for number, raw in enumerate(mailbox.letters):
        letter = mailbox.read(number)
        plain, page = letter.iter_parts()
        assert len(raw) < LARGEST
        assert raw.isascii()
        assert (letter["Bcc"], letter["To"]) == (None, "noc@example.com")
        assert "<b>" not in page.get_content()
        assert "&lt;b&gt;&amp;amp;" in page.get_content()
        assert "\nBcc" not in plain.get_content().replace("\r", "")
    listed = [name for number in range(len(mailbox.letters)) for name in ids(mailbox.text(number))]
    assert len(listed) == len(set(listed))
    assert outbox.waiting(ledger) == 0


@pytest.mark.parametrize("count", [1000, 6000])
def test_messages_that_do_not_fit_into_one_mail_go_in_several_each_once(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox, count: int
) -> None:
    queue(ledger, count, "warned", f"used {'9' * 60}")
    with ledger.transaction() as db:
        db.execute("UPDATE outbox SET facts = json_set(facts, '$.reason', 'used ' || id || ' GB of 1000 GB, 81 %')")
    delivered(path, clock, mailbox)
    assert 1 < len(mailbox.letters) <= count // 300
    assert max(map(len, mailbox.letters)) < LARGEST
    listed = [name for number in range(len(mailbox.letters)) for name in ids(mailbox.text(number))]
    assert len(listed) == len(set(listed)) == count


def test_a_repeat_after_a_crash_is_the_same_digest_although_more_messages_came(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    queue(ledger, 20)
    mailbox.at_data = "451 not yet"
    delivered(path, clock, mailbox)
    mailbox.at_data = "250 OK"
    queue(ledger, 20, "warned")
    clock.go(minutes=2)
    delivered(path, clock, mailbox)
    assert [letter["Subject"] for letter in map(mailbox.read, range(2))] == [
        "[xenbw] dom0-7: 20 messages: 20 released",
        "[xenbw] dom0-7: 20 messages: 20 warned",
    ]
    assert mailbox.read(0)["X-Xenbw-Id"] == "digest.1.20260401000000"
    assert mailbox.read(0)["Message-ID"] == "<xenbw.digest.1.20260401000000@dom0-7>"


def test_a_digest_that_was_accepted_but_not_marked_comes_again_to_the_byte(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    queue(ledger, 20)
    with serve(mailbox) as port, closing(sqlite3.connect(path)) as other:
        before = other.execute("SELECT id, facts FROM outbox").fetchall()
        clock.go(seconds=6)
        Courier(settings(path, port), clock).look()
        # As if the process had ended before it marked them.
        other.executemany(
            "UPDATE outbox SET sent_at = NULL, facts = ? WHERE id = ?", [(facts, id_) for id_, facts in before]
        )
        other.commit()
        queue(ledger, 1)
        clock.go(minutes=1)
        Courier(settings(path, port), clock).look()
    assert len(mailbox.letters) == 3
    assert mailbox.letters[0] == mailbox.letters[1]


def test_a_digest_that_is_refused_for_good_is_one_event(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    queue(ledger, 20)
    mailbox.at_data = "554 spam"
    delivered(path, clock, mailbox)
    ((_, kind, text),) = eventlog.newest(ledger, 10)
    assert (kind, outbox.waiting(ledger)) == ("mail-failed", 0)
    assert text.startswith("mail '[xenbw] dom0-7: 20 messages: 20 released' was given up: mail server 127.0.0.1")


def test_a_digest_is_given_up_when_its_newest_message_has_been_tried_for_a_week(
    path: Path, ledger: Ledger, clock: HandClock
) -> None:
    queue(ledger, 1)
    courier = Courier(settings(path, free_port()), clock)
    clock.go(days=6)
    with ledger.transaction():
        for number in range(9):
            outbox.queue(ledger, clock.wall, f"web{number}", "text", kind="released", facts=json.dumps({"vm": "web1"}))
    while clock.wall < AT + timedelta(days=13):
        courier.look()
        clock.go(hours=1)
        assert outbox.waiting(ledger) == 10
    courier.look()
    clock.go(hours=1)
    courier.look()
    assert outbox.waiting(ledger) == 0


def test_while_the_server_is_away_one_message_is_tried_and_all_arrive_as_one_mail(
    path: Path, ledger: Ledger, clock: HandClock, mailbox: Mailbox
) -> None:
    port = free_port()
    courier = Courier(settings(path, port), clock)
    for _ in range(10):
        queue(ledger, 1)
        courier.look()
        clock.go(seconds=5)
    assert [row[0] for row in ledger.rows("SELECT max(tries) FROM outbox")] == [1]
    clock.go(minutes=2)
    with serve(mailbox, port=port):
        courier.look()
    assert mailbox.read()["Subject"] == "[xenbw] dom0-7: 10 messages: 10 released"
    assert len(mailbox.letters) == 1


def test_messages_of_an_earlier_version_are_listed_by_their_subject(ledger: Ledger) -> None:
    for number in range(3):
        outbox.queue(ledger, AT, f"[xenbw] web{number}: released", "text\n")
    text = digest.text_of(outbox.due(ledger, AT, AT + timedelta(hours=1)), "dom0-7")
    assert "Other (3)\n  [xenbw] web0: released\n" in text

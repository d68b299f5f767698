from __future__ import annotations

import json
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.support.clock import utc
from tests.support.console import Console
from tests.support.mailserver import Mailbox, serve
from xenbw.config import MailSection
from xenbw.ledger.outbox import Channel, Message, Queue
from xenbw.tell.letter import Letterhead
from xenbw.tell.templates import Templates, read

BERLIN = ZoneInfo("Europe/Berlin")
AT = utc("2026-03-20 12:00")
FACTS = {
    "kind": "null-routed",
    "host": "dom0-7",
    "vm": "web1",
    "reason": "used 2.00 GB of 1.00 GB",
    "at": "2026-03-20T12:00:00Z",
    "until": "2026-04-01T00:00:00Z",
    "addresses": ["192.0.2.7", "2001:db8::7"],
    "period_start": "2026-03-01T00:00:00Z",
    "period_end": "2026-04-01T00:00:00Z",
    "used_bytes": 2 * 10**9,
    "limit_bytes": 10**9,
    "count": "total",
}


def mail(address: str = "", **facts: object) -> Message:
    told = json.dumps({**FACTS, **facts})
    queue = Queue(Channel.MAIL, address)
    return Message(1, AT, queue, "built-in subject", "built-in text\n", 0, "null-routed", told)


def template(folder: Path, text: str | bytes, name: str = "null-routed.txt") -> Templates:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(folder, BERLIN)


def test_without_a_folder_the_built_in_words_are_sent() -> None:
    assert read(None, BERLIN).worded(mail()) == mail()


def test_names_in_a_template_stand_for_the_facts(tmp_path: Path) -> None:
    words = template(
        tmp_path,
        "$vm ist gesperrt ($host)\n\n$reason; $used von $limit ($count), $addresses\nseit $at bis $until,"
        " ${period_start} - $period_end: $kind, 5 $$\n\n$subject\n$text\n",
    ).worded(mail())
    assert words.subject == "web1 ist gesperrt (dom0-7)"
    assert words.body == (
        "used 2.00 GB of 1.00 GB; 2.00 GB von 1.00 GB (total), 192.0.2.7, 2001:db8::7\n"
        "seit 2026-03-20 13:00 CET bis 2026-04-01 02:00 CEST, 2026-03-01 01:00 CET - 2026-04-01 02:00 CEST:"
        " null-routed, 5 $\n\nbuilt-in subject\nbuilt-in text\n"
    )


def test_a_template_for_tenants_is_only_for_them_and_the_other_only_for_the_admin(tmp_path: Path) -> None:
    template(tmp_path, "to the admin\ntext")
    words = template(tmp_path, "to you\ntext", "tenant/null-routed.txt")
    assert words.worded(mail()).subject == "to the admin"
    assert words.worded(mail("customer@example.com")).subject == "to you"


@pytest.mark.parametrize(
    "text", ["$nothing\n\ntext", "a\n\n$vm.$__class__", "a\n\n$ 5", "a\n\n${vm", "only a subject", ""]
)
def test_a_mistake_is_told_in_one_line_and_the_built_in_words_are_sent(tmp_path: Path, text: str) -> None:
    words = template(tmp_path, text)
    (problem,) = words.problems
    assert problem.startswith(f"template {tmp_path}/null-routed.txt: ")
    assert problem.endswith(": the built-in words are sent")
    assert "\n" not in problem
    assert words.worded(mail()) == mail()


@pytest.mark.parametrize(
    ("raw", "name", "why"),
    [
        (b"\xff\n\ntext", "null-routed.txt", "not UTF-8"),
        (b"a\n" + b"x" * 70_000, "null-routed.txt", "larger than 65,536 bytes"),
        (b"a\n\nb", "blocked.txt", "not a kind of message"),
    ],
)
def test_a_file_that_is_no_template_is_told(tmp_path: Path, raw: bytes, name: str, why: str) -> None:
    (problem,) = template(tmp_path, raw, name).problems
    assert why in problem


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    (problem,) = read(tmp_path / "none", BERLIN).problems
    assert problem == f"[mail] templates {tmp_path}/none: No such file or directory: the built-in words are sent"


def test_a_good_template_is_used_although_another_has_a_mistake(tmp_path: Path) -> None:
    template(tmp_path, "$nothing\n\ntext", "warned.txt")
    words = template(tmp_path, "mine\n\ntext")
    assert len(words.problems) == 1
    assert words.worded(mail()).subject == "mine"


@pytest.mark.parametrize("name", ["a\r\nBcc: x@y\r\n\r\nnew body", "$host ${reason}", "<b>\x1b[2J\u202e", "\U0001f600"])
def test_a_guest_s_name_can_neither_break_the_mail_nor_name_another_fact(tmp_path: Path, name: str) -> None:
    words = template(tmp_path, "$vm\n\n$vm\n").worded(mail(vm=name))
    assert "\n" not in words.body.rstrip("\n") + words.subject
    assert "dom0-7" not in words.body
    raw = Letterhead(MailSection(to=("a@b",)), "dom0").write(words.subject, words.body, "1.2", AT, "\n")
    assert raw.count(b"\nBcc:") == 0
    assert b"<p><b>" not in raw


def test_a_mail_of_an_earlier_version_has_no_facts_and_keeps_its_words(tmp_path: Path) -> None:
    old = Message(1, AT, Queue(Channel.MAIL), "subject", "text", 0)
    assert template(tmp_path, "mine\n\ntext").worded(old) == old


def test_notify_test_sends_a_sample_in_these_words_and_names_a_mistake(console: Console, tmp_path: Path) -> None:
    folder, mailbox = tmp_path / "words", Mailbox()
    folder.mkdir()
    template(folder, "Warnung: $vm\n\nhier\n", "warned.txt")
    template(folder, "$nothing\n\nx\n", "released.txt")
    with serve(mailbox) as port:
        console.config.write_text(
            console.config.read_text()
            + f'[mail]\nto = ["noc@example.com"]\nhost = "127.0.0.1"\nport = {port}\ntemplates = "{folder}"\n'
        )
        done = console.run("notify", "--test")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith(
        f"mail: FAILED: template {folder}/released.txt: unknown name $nothing"
    )
    assert done.stdout.splitlines()[1] == "mail: accepted"
    assert (mailbox.read()["Subject"], mailbox.text()) == ("Warnung: xenbw-test", "hier\n")

from __future__ import annotations

import json
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tests.support.clock import utc
from tests.support.console import Console
from tests.support.mailserver import Mailbox, free_port
from tests.support.mailserver import serve as serve_mail
from tests.support.program import script, sendmail
from tests.support.webserver import Postbox, make_authority, serve
from xenbw.tell.announcement import sample

SECRET = "correct horse battery staple"


def configure(console: Console, text: str) -> None:
    console.config.write_text(console.config.read_text() + text)


def test_each_channel_gets_a_sample_and_its_answer_is_shown(
    console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca, tls = make_authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    mailbox, postbox, program = Mailbox(), Postbox(), sendmail(tmp_path)
    with serve_mail(mailbox) as smtp, serve(postbox, tls) as port:
        mail = f'[mail]\nto = ["noc@example.com"]\nhost = "127.0.0.1"\nport = {smtp}\n'
        command = f'[command]\nrun = ["{program}"]\n'
        hook = f'[[webhook]]\nurl = "https://localhost:{port}/secret"\nsecret = "{SECRET}"\nkinds = ["released"]\n'
        configure(console, mail + command + hook)
        said = console.done("notify", "--test")
    assert said == f"mail: accepted\ncommand: accepted\nwebhook https://localhost:{port}: accepted\n"
    assert mailbox.read()["Subject"] == "[xenbw] test from dom0-a"
    ((_, headers, body),) = postbox.posts
    document = json.loads(body)
    assert (document["kind"], document["vm"], document["addresses"]) == ("released", "xenbw-test", [])
    assert document["id"] == headers["X-Xenbw-Id"]
    assert document["id"].startswith("test.")
    assert json.loads((tmp_path / "1.letter").read_bytes())["kind"] == "warned"
    assert not console.ledger_path.exists()


def test_a_channel_that_fails_is_shown_and_the_others_are_tried(console: Console, tmp_path: Path) -> None:
    broken, port = script(tmp_path / "broken", "echo no paper >&2; exit 3"), free_port()
    hook = f'[[webhook]]\nurl = "https://localhost:{port}/secret"\nsecret = "{SECRET}"\n'
    configure(console, f'[command]\nrun = ["{broken}"]\n{hook}')
    done = console.run("notify", "--test")
    assert (done.returncode, done.stderr) == (1, "no paper\n")
    assert done.stdout.splitlines() == [
        f"command: FAILED: {broken} ended with status 3",
        f"webhook https://localhost:{port}: FAILED: webhook localhost:{port}: Connection refused",
    ]


def test_one_channel_can_be_chosen(console: Console, tmp_path: Path) -> None:
    configure(
        console, f'[mail]\nto = ["noc@example.com"]\nport = {free_port()}\n[command]\nrun = ["{sendmail(tmp_path)}"]\n'
    )
    assert console.done("notify", "--test", "command") == "command: accepted\n"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("notify", "--test"), 1, "there is no channel to test (write [mail] to, [command] run or a [[webhook]] into"),
        (("notify", "--test", "webhook"), 1, "there is no channel to test (write [[webhook]] into the configuration)"),
        (("notify", "--test", "pigeon"), 2, "invalid choice: 'pigeon'"),
        (("notify",), 2, "required: --test"),
    ],
)
def test_without_a_channel_or_with_an_unknown_one_the_command_says_so(
    console: Console, words: tuple[str, ...], status: int, said: str
) -> None:
    done = console.run(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert said in done.stderr


def test_a_sample_has_the_keys_of_every_announcement() -> None:
    told = sample("over", "dom0-a", ZoneInfo("UTC"), utc("2026-03-20"))
    assert json.loads(told.document)["text"] == told.body
    assert json.loads(told.document)["used_bytes"] is None

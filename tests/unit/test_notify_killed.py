"""Messages reach real servers although the process that delivers them is killed again and again, each with its id."""

from __future__ import annotations

import json
import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from subprocess import DEVNULL, Popen

import pytest

from tests.support import mailserver, webserver
from tests.support.effort import cases
from tests.support.mailserver import Mailbox
from tests.support.pace import busy, until
from tests.support.program import script
from tests.support.webserver import Postbox
from xenbw.ledger import eventlog, outbox
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.outbox import Channel

REPO = Path(__file__).parents[2]
KILLS = cases(10, 100)
SECRET = "0123456789abcdef"
# Names that guests may choose.
NAMES = ("web1", "a\r\nBcc: x@y\r\n\r\n.\r\n", "<b>&amp;</b>", "\U0001f600\u202e\x1b[2J", "--=_xenbw.1", "w" * 300)
COURIER = (
    "from xenbw import config; from xenbw.clock import SystemClock; from xenbw.tell.courier import Courier;"
    "Courier(config.load(), SystemClock()).run()"
)


@dataclass
class World:
    """The servers, the ledger, and the processes that deliver. queued: the ids of all messages, by channel."""

    ledger: Ledger
    mailbox: Mailbox
    postbox: Postbox
    url: str
    commands: Path
    env: Mapping[str, str]
    chance: random.Random
    queued: dict[Channel, set[str]] = field(default_factory=lambda: {channel: set() for channel in Channel})

    def write(self) -> None:
        """Queue some messages, as if they had waited for a minute: some for mails of their own, some for a digest."""
        at = datetime.now(UTC) - timedelta(minutes=1)
        with self.ledger.transaction():
            for _ in range(self.chance.choice((1, 3, 8))):
                name = self.chance.choice(NAMES)
                facts = json.dumps({"kind": "warned", "vm": name, "reason": "used 81 %"})
                subject, body = f"[xenbw] {name}: traffic warning", f"{name} has used 81 %.\n"
                outbox.queue(self.ledger, at, subject, body, kind="warned", facts=facts)
                outbox.queue(self.ledger, at, subject, facts, Channel.COMMAND, kind="warned")
                outbox.queue(self.ledger, at, subject, facts, Channel.WEBHOOK, self.url, kind="warned")
        for message in self.waiting():
            self.queued[message.channel].add(message.name)

    def waiting(self) -> list[outbox.Message]:
        now = datetime.now(UTC)
        return outbox.due(self.ledger, now, now, most=10_000)

    def end_pauses(self) -> None:
        """As if the pauses after failures were over."""
        with self.ledger.transaction() as db:
            db.execute("UPDATE outbox SET next_at = created_at WHERE sent_at IS NULL")

    def misbehave(self, number: int) -> None:
        """What the servers do while process `number` runs."""
        self.mailbox.at_data = ("250 OK", "250 OK", "451 not now")[number % 3]
        self.postbox.status = (200, 200, 500, 301)[number % 4]
        # It answers a letter now and then, or 10 MB; neither is an acceptance.
        self.postbox.raw = {5: b"HTTP/1.1 503 Busy\r\n" * 1000, 7: b"HTTP/1.1 503 Busy\r\n\r\n" + b"x" * 10**7}.get(
            number % 9
        )
        self.postbox.drip = 0.05 if number % 9 == 5 else 0.0

    def behave(self) -> None:
        self.mailbox.at_data, self.postbox.status, self.postbox.raw = "250 OK", 200, None

    def start(self, *argv: str) -> Popen[bytes]:
        return Popen(argv, env=self.env, stdout=DEVNULL, stderr=DEVNULL)

    def kill(self, process: Popen[bytes]) -> None:
        """Kill it at any moment, half of the times just when a mail was accepted."""
        if self.chance.random() < 0.5:
            self.mailbox.arrived.clear()
            self.mailbox.arrived.wait(busy(0.5))
            time.sleep(self.chance.uniform(0, 0.01))
        else:
            time.sleep(self.chance.uniform(0, busy(0.3)))
        process.kill()
        process.wait()

    def letters(self) -> list[EmailMessage]:
        parser = BytesParser(EmailMessage, policy=policy.default)
        return [parser.parsebytes(raw) for raw in self.mailbox.letters]

    def documents(self) -> list[dict[str, str]]:
        """What the command read."""
        return [json.loads(path.read_bytes()) for path in self.commands.glob("*.json")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    authority, tls = webserver.make_authority(tmp_path)
    mailbox, postbox, commands = Mailbox(), Postbox(), tmp_path / "commands"
    commands.mkdir()
    command = script(
        tmp_path / "command",
        f'file=$(mktemp \'{commands}/XXXXXXXX\') && cat > "$file" && mv "$file" "$file.json"',
    )
    with (
        mailserver.serve(mailbox) as smtp,
        webserver.serve(postbox, tls) as https,
        closing(Ledger.open(tmp_path / "ledger.db", create=True)) as ledger,
    ):
        config, url = tmp_path / "xenbw.toml", f"https://localhost:{https}/hook"
        config.write_text(
            f'[daemon]\nrun_dir = "{tmp_path}"\n[ledger]\npath = "{ledger.path}"\n[host]\nname = "dom0-7"\n'
            f'[mail]\nto = ["noc@example.com"]\nhost = "127.0.0.1"\nport = {smtp}\n'
            f'[command]\nrun = ["{command}"]\n[[webhook]]\nurl = "{url}"\nsecret = "{SECRET}"\n'
        )
        env = {"XENBW_CONFIG": str(config), "XENBW_LIB": str(REPO), "PATH": os.environ["PATH"]}
        env |= {"SSL_CERT_FILE": str(authority), "PYTHONPATH": str(REPO)}
        yield World(ledger, mailbox, postbox, url, commands, env, random.Random(7))


def with_sendmail(world: World) -> None:
    """Let mails go by a sendmail: this one hands them to the server at once."""
    config = Path(world.env["XENBW_CONFIG"])
    text = config.read_text()
    port = int(re.findall(r"port = (\d+)", text)[0])
    program = config.with_name("sendmail")
    program.write_text(
        f"#!{sys.executable} -I\nimport smtplib, sys\nto = sys.argv[sys.argv.index('--') + 1:]\n"
        f"with smtplib.SMTP('127.0.0.1', {port}, timeout=10) as server:\n"
        "    server.sendmail(sys.argv[3], to, sys.stdin.read())\n"
    )
    program.chmod(0o755)
    config.write_text(text.replace("[mail]\n", f'[mail]\nsendmail = "{program}"\n'))


def deliver_all(world: World, start: Callable[[], Popen[bytes]], done: Callable[[], bool]) -> None:
    """Let the servers behave, and run the process until nothing waits."""
    world.behave()
    for _ in range(5):
        world.end_pauses()
        with start() as process:
            _wait_for(process, done)
            process.kill()
        if done():
            return


def _wait_for(process: Popen[bytes], done: Callable[[], bool]) -> None:
    until(lambda: done() or process.poll() is not None, 30)


def carried(letter: EmailMessage) -> list[str]:
    """The ids of the messages in a mail."""
    name = str(letter["X-Xenbw-Id"])
    if not name.startswith("digest."):
        return [name]
    plain = letter.get_body(("plain",))
    assert plain is not None
    listed = plain.get_content().replace("\r", "").rpartition("Ids of these messages")[2]
    lines = re.findall(r"^  (\d{14}): ([\d ]+)$", listed, re.MULTILINE)
    return [f"{number}.{second}" for second, numbers in lines for number in numbers.split()]


def check_mails(world: World) -> None:
    """Each message arrived, none without its id; a mail that came twice has the same Message-ID and the same bytes."""
    letters = world.letters()
    assert {name for letter in letters for name in carried(letter)} == world.queued[Channel.MAIL]
    by_id: dict[str, set[bytes]] = {}
    for letter, raw in zip(letters, world.mailbox.letters, strict=True):
        assert letter["Message-ID"] == f"<xenbw.{letter['X-Xenbw-Id']}@dom0-7>"
        assert letter["Bcc"] is None
        by_id.setdefault(letter["Message-ID"], set()).add(raw)
    assert {len(versions) for versions in by_id.values()} == {1}
    assert any(name.startswith("<xenbw.digest.") for name in by_id)
    assert eventlog.newest(world.ledger, 1) == []


def test_every_message_arrives_although_xenbw_notify_is_killed_again_and_again(world: World) -> None:
    with_sendmail(world)

    def start() -> Popen[bytes]:
        return world.start(str(REPO / "libexec" / "notify"))

    for number in range(KILLS):
        world.write()
        world.misbehave(number)
        world.kill(start())
        world.end_pauses()
    deliver_all(world, start, lambda: outbox.waiting(world.ledger) == 0)
    assert outbox.waiting(world.ledger) == 0
    check_mails(world)
    assert {document["id"] for document in world.documents()} == world.queued[Channel.COMMAND]
    bodies = [json.loads(body) for _, _, body in world.postbox.posts]
    assert {body["id"] for body in bodies} == world.queued[Channel.WEBHOOK]
    assert {headers["X-Xenbw-Id"] for _, headers, _ in world.postbox.posts} == world.queued[Channel.WEBHOOK]


def test_every_mail_arrives_although_the_daemon_s_courier_is_killed_again_and_again(world: World) -> None:
    def start() -> Popen[bytes]:
        return world.start(sys.executable, "-c", COURIER)

    def mails() -> int:
        return outbox.waiting_by_channel(world.ledger)[Channel.MAIL].count

    for number in range(KILLS):
        world.write()
        world.misbehave(number)
        world.kill(start())
        world.end_pauses()
    deliver_all(world, start, lambda: mails() == 0)
    assert mails() == 0
    check_mails(world)

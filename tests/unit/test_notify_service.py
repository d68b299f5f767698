"""The service that delivers messages by programs: real programs, the real entry point, a real ledger.

The file is long: all its tests need the same queue, clock and programs.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import HandClock, utc
from tests.support.guarded import END, IP, IP6, Host, MethodStandIn
from tests.support.mailserver import free_port
from tests.support.pace import busy
from tests.support.program import script, sendmail
from xenbw import config
from xenbw.config import CommandSection, DaemonSection, LedgerSection, MailSection, Settings
from xenbw.errors import UsageError
from xenbw.ledger import eventlog, outbox
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.outbox import Channel
from xenbw.model import Counters
from xenbw.tell import carriers
from xenbw.tell.bell import path_in
from xenbw.tell.courier import Courier
from xenbw.tell.delivery import Delivery

REPO = Path(__file__).parents[2]
AT = utc("2026-03-20 12:00")
HOUR = timedelta(hours=1)
ODD = "a'; reboot; '$(reboot)\r\nBcc: x@y\n.\n-f\x1b[2J\u202eb%s{}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A mail system and a command, which both keep their messages."""
    for name in ("run", "mails", "commands"):
        (tmp_path / name).mkdir()
    command = sendmail(tmp_path / "commands")
    return Settings(
        daemon=DaemonSection(run_dir=tmp_path / "run"),
        ledger=LedgerSection(path=tmp_path / "ledger.db"),
        mail=MailSection(
            to=("noc@example.com", "Night Shift <night@example.com>"),
            sender="Traffic Desk <traffic@example.org>",
            sendmail=str(sendmail(tmp_path / "mails")),
        ),
        command=CommandSection(run=(str(command), "--queue", "two words")),
    )


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with closing(Ledger.open(settings.ledger.path, create=True)) as opened:
        yield opened


@pytest.fixture
def host(settings: Settings, ledger: Ledger) -> Host:
    return Host(ledger, settings, MethodStandIn())


@pytest.fixture
def clock() -> HandClock:
    return HandClock(AT)


def delivery(settings: Settings, clock: HandClock) -> Delivery:
    return Delivery(settings.ledger.path, clock, carriers.by_service(settings))


def letter(settings: Settings, number: int = 1) -> EmailMessage:
    raw = (Path(settings.mail.sendmail).parent / f"{number}.letter").read_bytes()
    return BytesParser(EmailMessage, policy=policy.default).parsebytes(raw)


def told(settings: Settings, number: int = 1) -> dict[str, Any]:
    """The documents that the command read."""
    document: dict[str, Any] = json.loads((Path(settings.command.run[0]).parent / f"{number}.letter").read_bytes())
    return document


def calls(program: str) -> list[list[str]]:
    """The arguments of each call, oldest first."""
    folder = Path(program).parent
    return [(folder / f"{n}.args").read_text().splitlines() for n in range(1, len(list(folder.glob("*.args"))) + 1)]


# queued messages


def test_an_announcement_goes_to_every_channel_that_is_configured(host: Host, ledger: Ledger) -> None:
    host.judge(1001)
    messages = outbox.due(ledger, AT, AT + HOUR)
    assert [message.channel for message in messages] == [Channel.MAIL, Channel.COMMAND]
    assert {message.subject for message in messages} == {"[xenbw] web1: null-routed"}
    assert host.judging.queued


def test_without_mail_only_the_command_is_told_and_without_either_nobody(host: Host, ledger: Ledger) -> None:
    host.settings = replace(host.settings, mail=MailSection())
    host.restart()
    host.judge(1001)
    assert [message.channel for message in outbox.due(ledger, AT, AT + HOUR)] == [Channel.COMMAND]
    host.settings = replace(host.settings, command=CommandSection())
    host.restart()
    host.ledger.set_vm(host.web1, limit_bytes=2000)
    host.judge(1001)
    assert outbox.waiting(ledger) == 1
    assert not host.judging.queued


def test_an_announcement_that_cannot_be_recorded_is_not_queued(host: Host, ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        ledger.rows("PRAGMA busy_timeout = 0")
        other.execute("BEGIN IMMEDIATE")
        host.judging.judge(host.roster, {host.web1: Counters(1001, 0)}, [host.web1], host.moment)
    assert outbox.waiting(ledger) == 0


# the command's input


def test_the_command_reads_all_of_an_announcement_as_json(host: Host, settings: Settings, clock: HandClock) -> None:
    host.judge(1001)
    delivery(settings, clock).look()
    document = told(settings)
    assert document.pop("text").startswith("web1 was null-routed: used 1.00 KB of 1.00 KB")
    assert document == {
        "id": "2.20260320120000",
        "kind": "null-routed",
        "host": settings.host_name,
        "vm": "web1",
        "reason": "used 1.00 KB of 1.00 KB (in and out together): over its allowance by 1 B",
        "at": "2026-03-20T12:00:00Z",
        "until": "2026-04-01T00:00:00Z",
        "addresses": [str(IP), str(IP6)],
        "period_start": "2026-03-01T00:00:00Z",
        "period_end": "2026-04-01T00:00:00Z",
        "used_bytes": 1001,
        "limit_bytes": 1000,
        "count": "total",
        "threshold": None,
        "crosses_at": None,
        "flood": None,
        "trouble": None,
        "subject": "[xenbw] web1: null-routed",
    }


def test_every_kind_of_announcement_reaches_the_command(host: Host, settings: Settings, clock: HandClock) -> None:
    host.judge(900)
    host.judge(1001)
    host.new_period()
    host.judge()
    delivery(settings, clock).look()
    documents = [told(settings, number) for number in (1, 2, 3)]
    assert [(document["kind"], document["until"]) for document in documents] == [
        ("warned", None),
        ("null-routed", "2026-04-01T00:00:00Z"),
        ("released", None),
    ]
    assert documents[2]["reason"] == "a new period began"
    assert host.at == END


def test_a_guest_s_name_is_only_on_standard_input_and_unchanged(
    host: Host, settings: Settings, clock: HandClock, ledger: Ledger
) -> None:
    ledger.set_vm(host.web1, name=ODD)
    host.judge(1001)
    delivery(settings, clock).look()
    assert told(settings)["vm"] == ODD
    assert calls(settings.command.run[0]) == [["--queue", "two words"]]
    raw = (Path(settings.command.run[0]).parent / "1.letter").read_bytes()
    assert raw.isascii()
    assert raw.count(b"\n") == 1
    mail = letter(settings)
    assert mail["Bcc"] is None
    assert len(mail["Subject"].splitlines()) == 1


# sendmail's arguments and input


def test_sendmail_gets_sender_and_recipients_as_arguments_and_the_letter_with_this_system_s_line_ends(
    settings: Settings, ledger: Ledger, clock: HandClock
) -> None:
    outbox.queue(ledger, AT, "over", "text\n.\nmore \u20ac\n")
    delivery(settings, clock).look()
    assert calls(settings.mail.sendmail) == [
        ["-i", "-f", "traffic@example.org", "--", "noc@example.com", "night@example.com"]
    ]
    raw = (Path(settings.mail.sendmail).parent / "1.letter").read_bytes()
    assert b"\r" not in raw
    assert raw.isascii()
    mail = letter(settings)
    assert (mail["Subject"], mail["From"]) == ("over", "Traffic Desk <traffic@example.org>")
    assert mail["Message-ID"] == f"<xenbw.1.20260320120000@{settings.host_name}>"
    part = mail.get_body(("plain",))
    assert part is not None
    assert part.get_content() == "text\n.\nmore \u20ac\n"


# retries


def failing(settings: Settings, line: str) -> Settings:
    """Make the command fail by that line of shell."""
    folder = Path(settings.command.run[0]).parent
    return replace(settings, command=CommandSection(run=(str(sendmail(folder, line)),), timeout=5.0))


@pytest.mark.parametrize(
    ("line", "failure"),
    [
        ("exit 75", "ended with status 75 (journalctl -u xenbw-notify has what it said)"),
        ("exit 67", "ended with status 67 (journalctl -u xenbw-notify has what it said)"),
        ("sleep 100", "was killed: it had not ended after 5 s"),
    ],
)
def test_a_command_that_fails_is_run_again_later_and_its_failure_is_kept_with_the_message(
    settings: Settings, ledger: Ledger, clock: HandClock, line: str, failure: str
) -> None:
    outbox.queue(ledger, AT, "over", "{}", Channel.COMMAND)
    broken = delivery(failing(settings, line), clock)
    broken.look()
    program = settings.command.run[0]
    assert outbox.waiting_by_channel(ledger)[Channel.COMMAND] == outbox.Waiting(1, f"{program} {failure}")
    assert broken.problem == f"{program} {failure}"
    sendmail(Path(program).parent)
    delivery(settings, clock).look()
    assert calls(program) == []
    clock.go(minutes=1)
    delivery(settings, clock).look()
    assert told(settings)["id"] == "1.20260320120000"
    assert outbox.waiting_by_channel(ledger)[Channel.COMMAND] == outbox.Waiting(0, None)


def test_the_pause_doubles_to_an_hour_and_after_a_week_the_message_is_given_up_with_an_event(
    settings: Settings, ledger: Ledger, clock: HandClock
) -> None:
    outbox.queue(ledger, AT, "over", "{}", Channel.COMMAND)
    broken, pauses = delivery(failing(settings, "exit 1"), clock), []
    while outbox.waiting(ledger):
        before = clock.wall
        broken.look()
        while outbox.waiting(ledger) and not outbox.due(ledger, clock.wall, clock.wall + HOUR):
            clock.go(minutes=1)
        pauses.append((clock.wall - before) // timedelta(minutes=1))
    assert pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert timedelta(days=7) <= clock.wall - AT < timedelta(days=7, hours=1)
    ((_, kind, text),) = eventlog.newest(ledger, 10)
    assert kind == "command-failed"
    assert text == f"command 'over' was given up: {settings.command.run[0]} ended with status 1"


def test_a_failing_command_delays_neither_the_mails_nor_its_own_next_message(
    settings: Settings, ledger: Ledger, clock: HandClock
) -> None:
    for number in range(3):
        outbox.queue(ledger, AT, f"command {number}", "{}", Channel.COMMAND)
        outbox.queue(ledger, AT, f"mail {number}", "text")
    delivery(failing(settings, "exit 1"), clock).look()
    assert [letter(settings, number)["Subject"] for number in (1, 2, 3)] == ["mail 0", "mail 1", "mail 2"]
    rows = ledger.rows("SELECT tries FROM outbox WHERE channel = 'command'")
    assert [row[0] for row in rows] == [1, 1, 1]


# the daemon's share


def test_the_daemon_rings_for_the_service_when_something_is_due_and_runs_no_program_itself(
    settings: Settings, ledger: Ledger, clock: HandClock
) -> None:
    bell, daemon = path_in(settings.daemon.run_dir), Courier(settings, clock)
    daemon.look()
    assert not bell.exists()
    outbox.queue(ledger, AT, "over", "{}", Channel.COMMAND)
    outbox.queue(ledger, AT, "over", "text", Channel.MAIL)
    daemon.look()
    assert bell.exists()
    assert (daemon.problem, outbox.waiting(ledger)) == (None, 2)
    assert calls(settings.command.run[0]) == calls(settings.mail.sendmail) == []


def test_the_daemon_rings_again_when_a_retry_is_due_and_not_before(
    settings: Settings, ledger: Ledger, clock: HandClock
) -> None:
    bell, daemon = path_in(settings.daemon.run_dir), Courier(settings, clock)
    outbox.queue(ledger, AT, "over", "{}", Channel.COMMAND)
    delivery(failing(settings, "exit 1"), clock).look()
    daemon.look()
    assert not bell.exists()
    clock.go(minutes=1)
    daemon.look()
    assert bell.exists()


def test_a_service_that_does_not_start_is_a_problem_until_it_does(
    settings: Settings, ledger: Ledger, clock: HandClock
) -> None:
    daemon = Courier(settings, clock)
    outbox.queue(ledger, AT, "over", "{}", Channel.COMMAND)
    daemon.look()
    clock.go(minutes=5)
    daemon.look()
    assert daemon.problem is None
    clock.go(seconds=1)
    daemon.look()
    assert daemon.problem == "messages wait for xenbw-notify.service (systemctl status xenbw-notify.path)"
    path_in(settings.daemon.run_dir).unlink()
    delivery(settings, clock).look()
    daemon.look()
    assert daemon.problem is None


def test_a_folder_in_which_the_daemon_cannot_ring_is_a_problem(
    settings: Settings, ledger: Ledger, clock: HandClock
) -> None:
    outbox.queue(ledger, AT, "over", "{}", Channel.COMMAND)
    settings.daemon.run_dir.rmdir()
    daemon = Courier(settings, clock)
    daemon.look()
    assert daemon.problem == (
        f"{settings.daemon.run_dir}/notify: No such file or directory: xenbw-notify.service is not started"
    )


def test_smtp_mails_and_commands_are_delivered_independently(
    settings: Settings, ledger: Ledger, clock: HandClock
) -> None:
    settings = replace(settings, mail=MailSection(to=("noc@example.com",), host="127.0.0.1", port=free_port()))
    outbox.queue(ledger, AT, "over", "text")
    outbox.queue(ledger, AT, "over", "{}", Channel.COMMAND)
    daemon = Courier(settings, clock)
    daemon.look()
    assert daemon.problem is not None
    assert daemon.problem.startswith("mail server 127.0.0.1")
    delivery(settings, clock).look()
    waiting = outbox.waiting_by_channel(ledger)
    assert (waiting[Channel.MAIL].count, waiting[Channel.COMMAND].count) == (1, 0)
    assert waiting[Channel.MAIL].failure == daemon.problem


# the installed service


def configure(settings: Settings, tmp_path: Path, *, command: tuple[str, ...] | None = None) -> Mapping[str, str]:
    """The service's environment, with a configuration file of these settings."""
    file = tmp_path / "xenbw.toml"
    run = json.dumps(settings.command.run if command is None else command)
    file.write_text(
        f'[daemon]\nrun_dir = "{settings.daemon.run_dir}"\n[ledger]\npath = "{settings.ledger.path}"\n'
        f'[mail]\nto = ["noc@example.com"]\nsendmail = "{settings.mail.sendmail}"\n'
        f"[command]\nrun = {run}\ntimeout = 30\n"
    )
    return {"XENBW_CONFIG": str(file), "XENBW_LIB": str(REPO), "PATH": os.environ["PATH"]}


def start(env: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen([REPO / "libexec" / "notify"], env=env, stderr=subprocess.PIPE, text=True)


def until(holds: Callable[[], bool]) -> bool:
    limit = time.monotonic() + busy(15)
    while not holds() and time.monotonic() < limit:
        time.sleep(0.02)
    return holds()


def test_a_run_delivers_everything_oldest_first_and_ends(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for number in range(25):
        outbox.queue(ledger, now, f"message {number}", json.dumps({"number": number}), Channel.COMMAND)
    outbox.queue(ledger, now, "mail", "text")
    done = start(configure(settings, tmp_path))
    assert (done.communicate()[1], done.returncode) == ("", 0)
    assert [told(settings, number + 1)["number"] for number in range(25)] == list(range(25))
    assert letter(settings)["Subject"] == "mail"
    assert outbox.waiting(ledger) == 0


def test_a_run_waits_for_more_mails_and_delivers_other_messages_meanwhile(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    for number in range(6):
        outbox.queue(ledger, datetime.now(UTC), f"mail {number}", "text")
    run = start(configure(settings, tmp_path))
    time.sleep(1)
    outbox.queue(ledger, datetime.now(UTC), "over", "{}", Channel.COMMAND)
    outbox.queue(ledger, datetime.now(UTC), "mail 6", "text")
    assert until(lambda: len(calls(settings.command.run[0])) == 1)
    assert calls(settings.mail.sendmail) == []
    assert (run.communicate()[1], run.returncode) == ("", 0)
    assert len(calls(settings.mail.sendmail)) == 1
    assert letter(settings)["Subject"] == f"[xenbw] {settings.host_name}: 7 messages: 7 other"
    assert outbox.waiting(ledger) == 0


def test_a_run_logs_a_failure_in_one_line_and_succeeds(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    outbox.queue(ledger, datetime.now(UTC), "over", "{}", Channel.COMMAND)
    done = start(configure(settings, tmp_path, command=("/no/such/program",)))
    assert (done.communicate()[1], done.returncode) == (
        "/no/such/program: not found (is its package installed?)\n",
        0,
    )
    assert outbox.waiting_by_channel(ledger)[Channel.COMMAND].failure is not None


def test_parallel_runs_deliver_each_message_once(settings: Settings, ledger: Ledger, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for number in range(6):
        outbox.queue(ledger, now, f"message {number}", "{}", Channel.COMMAND)
    folder = Path(settings.command.run[0]).parent
    sendmail(folder, "sleep 0.1")
    env = configure(settings, tmp_path)
    runs = [start(env) for _ in range(3)]
    for run in runs:
        assert (run.communicate()[1], run.returncode) == ("", 0)
    assert len(calls(settings.command.run[0])) == 6
    assert outbox.waiting(ledger) == 0


def test_a_stopped_run_kills_its_program_and_the_message_waits(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    outbox.queue(ledger, datetime.now(UTC), "over", "text")
    file = tmp_path / "pid"
    script(Path(settings.mail.sendmail), f"echo $$ > {file}.new", f"mv {file}.new {file}", "sleep 1000")
    run = start(configure(settings, tmp_path))
    assert until(file.exists)
    run.send_signal(signal.SIGTERM)
    run.communicate()
    assert run.returncode == 128 + signal.SIGTERM
    pid = file.read_text().strip()
    assert until(lambda: not Path(f"/proc/{pid}").exists())
    assert outbox.waiting_by_channel(ledger)[Channel.MAIL] == outbox.Waiting(1, None)


def test_a_message_delivered_while_the_ledger_could_not_be_written_is_not_delivered_again(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    outbox.queue(ledger, datetime.now(UTC), "over", "{}", Channel.COMMAND)
    program = settings.command.run[0]
    sendmail(Path(program).parent, "sleep 0.5")
    run = start(configure(settings, tmp_path))
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert run.stderr is not None
        assert run.stderr.readline().startswith("delivered, but not yet marked in the ledger:")
        # A second run, as systemd would start one at the daemon's next ring, waits for the first.
        again = start(configure(settings, tmp_path))
        time.sleep(1)
        assert again.poll() is None or again.returncode == 0
    run.communicate()
    again.communicate()
    assert (run.returncode, again.returncode) == (0, 0)
    assert len(calls(program)) == 1
    assert outbox.waiting(ledger) == 0


def test_a_mistake_in_the_configuration_is_reported_and_nothing_is_delivered(
    settings: Settings, ledger: Ledger, tmp_path: Path
) -> None:
    outbox.queue(ledger, datetime.now(UTC), "over", "{}", Channel.COMMAND)
    run = start(configure(settings, tmp_path, command=("page",)))
    said = run.communicate()[1]
    assert run.returncode == 2
    assert "[command] run = ['page']: not allowed" in said
    assert said.count("\n") == 1
    assert outbox.waiting(ledger) == 1


# the configuration


@pytest.mark.parametrize(
    ("text", "section", "value"),
    [
        ('[mail]\nsendmail = ""', "mail", ""),
        ('[mail]\nsendmail = "/usr/sbin/sendmail"', "mail", "/usr/sbin/sendmail"),
        ("[command]\nrun = []", "command", ()),
        ('[command]\nrun = ["/bin/x", "", "-y z"]', "command", ("/bin/x", "", "-y z")),
    ],
)
def test_programs_are_named_by_absolute_paths(tmp_path: Path, text: str, section: str, value: object) -> None:
    file = tmp_path / "xenbw.toml"
    file.write_text(text)
    loaded = getattr(config.load(file), section)
    assert (loaded.sendmail if section == "mail" else loaded.run) == value


@pytest.mark.parametrize(
    "text",
    [
        '[mail]\nsendmail = "sendmail"',
        '[mail]\nsendmail = "/bin/a\\u0000b"',
        '[command]\nrun = "/bin/x"',
        '[command]\nrun = ["x"]',
        '[command]\nrun = [""]',
        '[command]\nrun = ["/bin/x", 1]',
        '[command]\nrun = ["/bin/x", "a\\u0000b"]',
        "[command]\ntimeout = 0.5",
        "[command]\ntimeout = 3601",
    ],
)
def test_any_other_value_is_a_mistake(tmp_path: Path, text: str) -> None:
    file = tmp_path / "xenbw.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match="not allowed"):
        config.load(file)


def test_with_a_sendmail_the_mail_host_is_not_protected() -> None:
    assert Settings(mail=MailSection(to=("a@b",), host="mx.example.org")).helpers == ("mx.example.org",)
    assert Settings(mail=MailSection(to=("a@b",), host="mx.example.org", sendmail="/bin/x")).helpers == ()

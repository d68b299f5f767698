"""Webhooks: real HTTPS servers, the real service, a real ledger.

The file is long: all its tests need the same servers, certificates and queue.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.clock import HandClock, utc
from tests.support.guarded import Host, MethodStandIn
from tests.support.host import REPO
from tests.support.mailserver import free_port
from tests.support.pace import busy
from tests.support.program import sendmail
from tests.support.webserver import Authority, Postbox, make_authority, serve
from xenbw import checks, config
from xenbw.config import CommandSection, DaemonSection, LedgerSection, MailSection, Settings, WebhookSection
from xenbw.errors import UsageError
from xenbw.ledger import eventlog, outbox
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.outbox import Channel
from xenbw.tell import carriers, webhook
from xenbw.tell.bell import path_in
from xenbw.tell.courier import Courier
from xenbw.tell.delivery import Delivery
from xenbw.tell.webhook import Webhook

AT = utc("2026-03-20 12:00")
SECRET = "correct horse battery staple"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def trust(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """This host trusts the test's authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))


@pytest.fixture
def postbox() -> Postbox:
    return Postbox()


@pytest.fixture
def clock() -> HandClock:
    return HandClock(AT)


def hook(port: int, path: str = "/hooks/xenbw?key=1", kinds: tuple[str, ...] = ()) -> WebhookSection:
    return WebhookSection(f"https://localhost:{port}{path}", SECRET, kinds)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "run").mkdir()
    return Settings(daemon=DaemonSection(run_dir=tmp_path / "run"), ledger=LedgerSection(path=tmp_path / "ledger.db"))


@pytest.fixture
def ledger(settings: Settings) -> Iterator[Ledger]:
    with closing(Ledger.open(settings.ledger.path, create=True)) as opened:
        yield opened


def to(settings: Settings, *hooks: WebhookSection) -> Settings:
    return replace(settings, webhook=hooks)


def queue(ledger: Ledger, *hooks: WebhookSection, subject: str = "over", at: datetime = AT) -> None:
    for one in hooks:
        outbox.queue(ledger, at, subject, json.dumps({"kind": "over", "vm": "web1"}), Channel.WEBHOOK, one.url)


def look(settings: Settings, clock: HandClock, limit: float = 20.0) -> Delivery:
    """One look of the service at the outbox."""
    hooks = carriers.by_service(settings)
    for number, section in zip(list(hooks.carriers), settings.webhook, strict=True):
        hooks.carriers[number] = Webhook(section, limit=limit, now=clock.wall.timestamp)
    delivery = Delivery(settings.ledger.path, clock, hooks)
    delivery.look()
    return delivery


def waiting(ledger: Ledger) -> outbox.Waiting:
    return outbox.waiting_by_channel(ledger)[Channel.WEBHOOK]


# a post


def test_a_server_gets_the_announcement_signed_with_its_time(
    settings: Settings, ledger: Ledger, clock: HandClock, postbox: Postbox, authority: Authority
) -> None:
    with serve(postbox, authority[1]) as port:
        settings = to(settings, hook(port))
        host = Host(ledger, settings, MethodStandIn())
        host.judge(1001)
        assert look(settings, clock).problem is None
    ((path, headers, body),) = postbox.posts
    document = json.loads(body)
    assert path == "/hooks/xenbw?key=1"
    assert (document["id"], document["kind"], document["vm"]) == ("1.20260320120000", "null-routed", "web1")
    assert headers["Content-Type"] == "application/json"
    assert headers["Host"] == f"localhost:{port}"
    assert headers["X-Xenbw-Id"] == document["id"]
    fields = dict(part.split("=") for part in headers["X-Xenbw-Signature"].split(","))
    assert fields["t"] == str(int(AT.timestamp()))
    signed = f"{fields['t']}.".encode() + body
    assert fields["v1"] == hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert waiting(ledger) == outbox.Waiting(0, None)


def test_the_manual_page_s_example_of_a_signature_is_right() -> None:
    page = (REPO / "man" / "xenbw.toml.5").read_text().replace("\\-", "-")
    assert webhook.signature("0123456789abcdef", 1795408736, b'{"id": "41.20261123043856"}') in page


def test_a_hostile_name_is_only_in_the_body(
    settings: Settings, ledger: Ledger, clock: HandClock, postbox: Postbox, authority: Authority
) -> None:
    odd = "a\r\nX-Evil: 1\r\n\r\n\u202e\x1b[2J"
    with serve(postbox, authority[1]) as port:
        settings = to(settings, hook(port))
        host = Host(ledger, settings, MethodStandIn())
        ledger.set_vm(host.web1, name=odd)
        host.judge(1001)
        look(settings, clock)
    ((_, headers, body),) = postbox.posts
    assert "X-Evil" not in headers
    assert body.isascii()
    assert json.loads(body)["vm"] == odd


# kinds


def test_a_channel_with_kinds_gets_only_those(settings: Settings, ledger: Ledger) -> None:
    settings = replace(
        settings,
        mail=MailSection(to=("noc@example.com",), kinds=("warned",)),
        command=CommandSection(run=("/bin/true",), kinds=("released", "warned")),
        webhook=(hook(1, "/all"), hook(1, "/blocks", ("null-routed", "released"))),
    )
    host = Host(ledger, settings, MethodStandIn())

    def told() -> list[str]:
        found = [one.queue for one in outbox.due(ledger, host.at, host.at + timedelta(hours=1))]
        with ledger.transaction() as db:
            db.execute("DELETE FROM outbox")
        return [
            f"{one.channel.value}{one.address.rpartition('/')[2] and '/' + one.address.rpartition('/')[2]}"
            for one in found
        ]

    host.judge(900)
    assert told() == ["mail", "command", "webhook/all"]
    host.judge(1001)
    assert told() == ["webhook/all", "webhook/blocks"]
    host.new_period()
    host.judge()
    assert told() == ["command", "webhook/all", "webhook/blocks"]


def test_the_kinds_are_those_of_the_announcements() -> None:
    source = (REPO / "xenbw" / "tell" / "announcement.py").read_text()
    assert {kind for kind in checks.KINDS if f'Announcement("{kind}"' in source} == set(checks.KINDS)
    assert source.count('Announcement("') == len(checks.KINDS)


# answers that are no success


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (500, "answered 500 Internal Server Error"),
        (429, "answered 429 Too Many Requests"),
        (301, "answered 301 Moved Permanently (write the new address into [[webhook]] url)"),
    ],
)
def test_an_answer_other_than_success_is_tried_again_and_redirects_are_not_followed(
    settings: Settings, ledger: Ledger, clock: HandClock, postbox: Postbox, authority: Authority, status: int, said: str
) -> None:
    elsewhere = Postbox()
    with serve(elsewhere, authority[1]) as other, serve(postbox, authority[1]) as port:
        settings = to(settings, hook(port))
        queue(ledger, *settings.webhook)
        postbox.status, postbox.headers = status, {"Location": f"https://localhost:{other}/"}
        assert look(settings, clock).problem == f"webhook localhost:{port} {said}"
        assert waiting(ledger) == outbox.Waiting(1, f"webhook localhost:{port} {said}")
        postbox.status = 204
        look(settings, clock)
        assert postbox.posts == []
        clock.go(minutes=1)
        look(settings, clock)
    assert len(postbox.posts) == 1
    assert elsewhere.requests == 0
    assert waiting(ledger).count == 0


def test_an_answer_of_ten_megabytes_is_not_read(
    settings: Settings, ledger: Ledger, clock: HandClock, postbox: Postbox, authority: Authority
) -> None:
    with serve(postbox, authority[1]) as port:
        settings = to(settings, hook(port))
        queue(ledger, *settings.webhook)
        postbox.raw = b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 10_000_000
        begin = time.monotonic()
        assert look(settings, clock).problem is None
    assert time.monotonic() - begin < busy(5)
    assert waiting(ledger).count == 0


@pytest.mark.parametrize(
    ("raw", "drip", "said"),
    [
        (b"", 0.0, ": Remote end closed connection without response"),
        (b"SSH-2.0-OpenSSH\r\n", 0.0, " has not answered in HTTP: BadStatusLine"),
        (b"HTTP/1.1 200 " + b"O" * 1000, 0.1, " has not answered in time"),
    ],
    ids=["hangs up", "is no web server", "sends a byte now and then"],
)
def test_a_server_that_does_not_answer_is_given_up_in_time(
    settings: Settings,
    ledger: Ledger,
    clock: HandClock,
    postbox: Postbox,
    authority: Authority,
    raw: bytes,
    drip: float,
    said: str,
) -> None:
    postbox.raw, postbox.drip = raw, drip
    with serve(postbox, authority[1]) as port:
        settings = to(settings, hook(port))
        queue(ledger, *settings.webhook)
        assert look(settings, clock, limit=2).problem == f"webhook localhost:{port}{said}"
    assert [thread.name for thread in threading.enumerate() if isinstance(thread, threading.Timer)] == []


def test_a_server_that_accepts_and_says_nothing_is_given_up_in_time(
    settings: Settings, ledger: Ledger, clock: HandClock
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        settings = to(settings, hook(port))
        queue(ledger, *settings.webhook)
        begin = time.monotonic()
        assert look(settings, clock, limit=1).problem == f"webhook localhost:{port} has not answered in time"
    assert time.monotonic() - begin < busy(3)


# certificates


def test_a_certificate_of_an_unknown_authority_or_for_another_name_is_refused(
    settings: Settings,
    ledger: Ledger,
    clock: HandClock,
    postbox: Postbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, trusted, said in (
        ("localhost", False, "unable to get local issuer certificate"),
        ("panel.example.org", True, "Hostname mismatch, certificate is not valid for 'localhost'."),
    ):
        folder = tmp_path / name
        folder.mkdir()
        ca, context = make_authority(folder, name)
        if trusted:
            monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        with serve(postbox, context) as port:
            sent_to = to(settings, hook(port))
            queue(ledger, *sent_to.webhook)
            problem = look(sent_to, clock).problem
        assert problem == (
            f"webhook localhost:{port}: its certificate is refused: {said} (is its authority among this host's?)"
        )
    assert postbox.requests == 0


# one queue for each url


def test_a_server_that_is_away_is_asked_once_for_all_its_messages_and_delays_no_other(
    settings: Settings, ledger: Ledger, clock: HandClock, postbox: Postbox, authority: Authority
) -> None:
    with serve(postbox, authority[1]) as port:
        away, there = hook(free_port(), "/away"), hook(port)
        settings = to(settings, away, there)
        for number in range(30):
            queue(ledger, away, there, subject=str(number))
        delivery = Delivery(settings.ledger.path, clock, carriers.by_service(settings))
        while delivery.look():
            pass
        assert len(postbox.posts) == 30
    rows = ledger.rows("SELECT tries FROM outbox WHERE sent_at IS NULL ORDER BY id")
    assert [row[0] for row in rows] == [1] + [0] * 29
    assert not delivery.is_due()
    clock.go(minutes=1)
    assert delivery.is_due()


def test_a_message_that_the_server_refuses_does_not_hold_up_the_next(
    settings: Settings, ledger: Ledger, clock: HandClock, postbox: Postbox, authority: Authority
) -> None:
    with serve(postbox, authority[1]) as port:
        settings = to(settings, hook(port))
        queue(ledger, *settings.webhook, subject="refused")
        postbox.status = 400
        look(settings, clock)
        postbox.status = 200
        queue(ledger, *settings.webhook, subject="next")
        look(settings, clock)
    assert [json.loads(body)["id"][:2] for _, _, body in postbox.posts] == ["2."]


def test_the_pause_doubles_to_an_hour_and_after_a_week_the_messages_are_given_up_with_an_event(
    settings: Settings, ledger: Ledger, clock: HandClock
) -> None:
    settings = to(settings, hook(free_port()))
    queue(ledger, *settings.webhook, subject="first")
    queue(ledger, *settings.webhook, subject="second")
    pauses = []
    while outbox.waiting(ledger):
        before = clock.wall
        look(settings, clock)
        while outbox.waiting(ledger) and not outbox.due(ledger, clock.wall, clock.wall + timedelta(hours=1)):
            clock.go(minutes=1)
        pauses.append((clock.wall - before) // timedelta(minutes=1))
    assert pauses[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert timedelta(days=7) <= clock.wall - AT < timedelta(days=7, hours=2)
    told = [(kind, text.partition(":")[0]) for _, kind, text in reversed(eventlog.newest(ledger, 10))]
    assert told == [
        ("webhook-failed", "webhook 'first' was given up"),
        ("webhook-failed", "webhook 'second' was given up"),
    ]


def test_messages_that_are_a_week_old_are_given_up_together_after_one_more_try(
    settings: Settings, ledger: Ledger, clock: HandClock, postbox: Postbox, authority: Authority
) -> None:
    postbox.raw = b""
    with serve(postbox, authority[1]) as port:
        settings = to(settings, hook(port))
        for number in range(10):
            queue(ledger, *settings.webhook, subject=str(number))
        clock.go(days=6)
        queue(ledger, *settings.webhook, subject="younger", at=clock.wall)
        clock.go(days=1)
        look(settings, clock)
    assert postbox.requests == 1
    assert [row[0] for row in ledger.rows("SELECT subject FROM outbox")] == ["younger"]
    assert len(eventlog.newest(ledger, 100)) == 10


def test_a_url_that_is_no_longer_configured_keeps_its_messages_to_itself(
    settings: Settings, ledger: Ledger, clock: HandClock, postbox: Postbox, authority: Authority
) -> None:
    with serve(postbox, authority[1]) as port:
        queue(ledger, hook(port, "/old"))
        look(to(settings, hook(port)), clock)
    assert postbox.requests == 0
    assert waiting(ledger).count == 1


# the daemon and the service


def test_the_daemon_only_rings_for_the_service(
    settings: Settings, ledger: Ledger, clock: HandClock, postbox: Postbox, authority: Authority
) -> None:
    with serve(postbox, authority[1]) as port:
        settings = to(settings, hook(port))
        queue(ledger, *settings.webhook)
        daemon = Courier(settings, clock)
        daemon.look()
    assert path_in(settings.daemon.run_dir).exists()
    assert (daemon.problem, postbox.requests, waiting(ledger).count) == (None, 0, 1)


def test_the_daemon_loads_no_library_for_webhooks() -> None:
    code = "import sys, xenbw.tell.courier; print(*sorted({'http.client', 'ssl'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert done.stdout == "\n"


def configure(settings: Settings, tmp_path: Path, more: str = "") -> dict[str, str]:
    """The service's environment, with a configuration file of these settings."""
    file = tmp_path / "xenbw.toml"
    hooks = "".join(f'[[webhook]]\nurl = "{one.url}"\nsecret = "{one.secret}"\n' for one in settings.webhook)
    file.write_text(
        f'[daemon]\nrun_dir = "{settings.daemon.run_dir}"\n[ledger]\npath = "{settings.ledger.path}"\n{more}{hooks}'
    )
    kept = {key: os.environ[key] for key in ("PATH", "SSL_CERT_FILE")}
    return {**kept, "XENBW_CONFIG": str(file), "XENBW_LIB": str(REPO)}


def start(env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen([REPO / "libexec" / "notify"], env=env, stderr=subprocess.PIPE, text=True)


def test_the_service_posts_and_runs_the_command_side_by_side(
    settings: Settings, ledger: Ledger, tmp_path: Path, postbox: Postbox, authority: Authority
) -> None:
    program = sendmail(tmp_path)
    with serve(postbox, authority[1]) as port:
        settings = to(settings, hook(port))
        now = datetime.now(UTC)
        for number in range(3):
            queue(ledger, *settings.webhook, subject=str(number), at=now)
            outbox.queue(ledger, now, "over", "{}", Channel.COMMAND)
        done = start(configure(settings, tmp_path, f'[command]\nrun = ["{program}"]\n'))
        assert (done.communicate()[1], done.returncode) == ("", 0)
    assert len(postbox.posts) == len(list(tmp_path.glob("*.letter"))) == 3
    assert outbox.waiting(ledger) == 0


def test_with_server_and_service_killed_in_between_each_message_arrives_and_repeats_have_the_same_id(
    settings: Settings, ledger: Ledger, tmp_path: Path, postbox: Postbox, authority: Authority
) -> None:
    chance, port, now = random.Random(1), free_port(), datetime.now(UTC)
    settings = to(settings, hook(port))
    env = configure(settings, tmp_path)
    for number in range(40):
        queue(ledger, *settings.webhook, subject=str(number), at=now)
    killed = 0
    for round_ in range(60):
        with ledger.transaction() as db:
            db.execute("UPDATE outbox SET next_at = created_at WHERE sent_at IS NULL")  # as if an hour had passed
        if round_ % 4 == 3:  # the server is down
            start(env).communicate()
            continue
        with serve(postbox, authority[1], port):
            run = start(env)
            try:
                run.wait(chance.uniform(0.1, 0.6) if round_ < 12 else 60)
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                killed += 1
            run.communicate()
        if not outbox.waiting(ledger):
            break
    assert killed > 0
    assert outbox.waiting(ledger) == 0
    posts = [(headers["X-Xenbw-Id"], body) for _, headers, body in postbox.posts]
    assert {one.partition(".")[0] for one, _ in posts} == {str(number + 1) for number in range(40)}
    assert len(set(posts)) == 40
    assert all(json.loads(body)["id"] == one for one, body in posts)


# the configuration


def load(tmp_path: Path, text: str, more: str = "") -> Settings:
    (tmp_path / "xenbw.toml").write_text(text)
    (tmp_path / "xenbw.toml.d").mkdir(exist_ok=True)
    (tmp_path / "xenbw.toml.d" / "a.toml").write_text(more)
    return config.load(tmp_path / "xenbw.toml")


def one(url: str = "https://a.example.org/", secret: str = SECRET, more: str = "") -> str:
    return f'[[webhook]]\nurl = "{url}"\nsecret = "{secret}"\n{more}'


def test_the_webhooks_of_all_files_count(tmp_path: Path) -> None:
    kinds = 'kinds = ["null-routed", "released"]\n'
    found = load(
        tmp_path, one() + one("https://b.example.org:8443/x", more=kinds), one("https://[2001:db8::1]/")
    ).webhook
    assert [section.url for section in found] == [
        "https://a.example.org/",
        "https://b.example.org:8443/x",
        "https://[2001:db8::1]/",
    ]
    assert [section.kinds for section in found] == [(), ("null-routed", "released"), ()]
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (one("http://a.example.org/"), "url = 'http://a.example.org/': not allowed"),
        (one("https://"), "not allowed"),
        (one("https://user:word@a.example.org/"), "not allowed"),
        (one("https://a.example.org:99999/"), "not allowed"),
        (one("https://a.example.org/a b"), "not allowed"),
        (one("https://a.example.org/\\r\\nHost: b"), "not allowed"),
        (one(secret="too short"), "secret = ...: not allowed"),
        (one(more='kinds = ["blocked"]'), "kinds = ['blocked']: not allowed"),
        (one(more="kinds = [[]]"), "not allowed"),
        ('[[webhook]]\nurl = "https://a.example.org/"', "[[webhook]]: secret is missing"),
        (f'[[webhook]]\nsecret = "{SECRET}"', "[[webhook]]: url is missing"),
        (one(more="retries = 3"), "[[webhook]] retries: unknown key"),
        (one() + one(), "two of them have the same url"),
        ('[webhook]\nurl = "https://a.example.org/"', "can come more than once"),
        ("webhook = [1]", "is a section"),
    ],
)
def test_any_other_webhook_is_a_mistake(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)

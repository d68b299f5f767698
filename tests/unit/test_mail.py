from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import utc
from tests.support.mailserver import Mailbox, free_port, make_authority, serve
from tests.support.pace import busy
from xenbw.config import MailSection
from xenbw.errors import UsageError
from xenbw.tell.carrier import DeliveryError
from xenbw.tell.mail import Mail

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH")

AT = utc("2026-03-29 12:30")
TO = ("noc@example.com",)
HEADERS = sorted("Auto-Submitted Content-Type Date From MIME-Version Message-ID Subject To X-Xenbw-Id".split())


def mail(
    port: int, *, host_name: str = "dom0-7.example.net", timeout: float = 5.0, limit: float = 60.0, **keys: Any
) -> Mail:
    section = MailSection(**{"to": TO, "host": "localhost", "port": port, **keys})
    return Mail(section, host_name, timeout=timeout, limit=limit)


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def port(mailbox: Mailbox) -> Iterator[int]:
    with serve(mailbox) as number:
        yield number


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    return make_authority(tmp_path_factory.mktemp("authority"))


@contextmanager
def failing(permanent: bool) -> Iterator[list[str]]:
    said: list[str] = []
    with pytest.raises(DeliveryError) as caught:
        yield said
    said.append(str(caught.value))
    assert caught.value.permanent is permanent


@contextmanager
def dripping(before: bytes, drip: float = 0.05) -> Iterator[int]:
    """A server that sends these answers whatever it is told, then a letter now and then; drip 0: then it hangs up."""

    def talk() -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.sendall(before)
            if not drip:
                connection.recv(1 << 16)
            while drip:
                connection.sendall(b"2")
                time.sleep(drip)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=talk)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_a_message_arrives_with_all_its_headers(mailbox: Mailbox, port: int) -> None:
    refused = mail(port, to=("noc@example.com", "Night Shift <night@example.com>")).send("over", "text\n", "12.1", AT)
    letter = mailbox.read()
    assert refused == {}
    assert letter["From"] == "xenbw@dom0-7.example.net"
    assert letter["To"] == "noc@example.com, Night Shift <night@example.com>"
    assert letter["Subject"] == "over"
    assert letter["Date"].datetime == AT
    assert letter["Message-ID"] == "<xenbw.12.1@dom0-7.example.net>"
    assert letter["Auto-Submitted"] == "auto-generated"
    assert mailbox.text() == "text\n"
    assert mailbox.recipients == [["noc@example.com", "night@example.com"]]
    assert mailbox.senders == ["xenbw@dom0-7.example.net"]


def test_a_repeat_is_the_same_message_to_the_byte(mailbox: Mailbox, port: int) -> None:
    for _ in range(2):
        mail(port).send("over", "text", "12.1", AT)
    assert mailbox.letters[0] == mailbox.letters[1]


def test_the_configured_sender_is_used_in_header_and_envelope(mailbox: Mailbox, port: int) -> None:
    mail(port, sender="Traffic Desk <traffic@example.org>").send("s", "b", "1", AT)
    assert mailbox.read()["From"] == "Traffic Desk <traffic@example.org>"
    assert mailbox.senders == ["traffic@example.org"]


def test_a_local_user_needs_no_domain(mailbox: Mailbox, port: int) -> None:
    mail(port, to=("root",)).send("s", "b", "1", AT)
    assert mailbox.recipients == [["root"]]


@pytest.mark.parametrize(
    "name",
    [
        "web\r\nBcc: victim@example.com",
        "web\nX-Spam: no\n\nnew body",
        "web\x00\x1b[2J",
        "kundé 42 — ünïcode ☃",
        "=?utf-8?q?Bcc=3A?=",
        "=?utf-8?q?=0d=0aBcc:_victim@example.com?=",
        "=?utf-8?q?=1b[2J?=",
        "=?utf-7?q?+2AA-?=",
        "w" * 3000,
        "é" * 3000,
        "lone \udcff surrogate",
        "\u2028line\u2029separators\x85",
        "",
    ],
    ids=lambda name: ascii(name[:20]),
)
def test_no_name_can_add_a_header_or_break_one(name: str, mailbox: Mailbox, port: int) -> None:
    mail(port).send(f"[xenbw] {name}: null-routed", f"{name} was null-routed\n", "1", AT)
    letter, raw = mailbox.read(), mailbox.letters[0]
    assert sorted(letter.keys()) == HEADERS
    assert letter["To"] == TO[0]
    assert letter["Subject"].startswith("[xenbw] ")
    assert letter["Subject"].isprintable()
    assert len(letter["Subject"]) <= 200
    assert max(len(line) for line in raw.split(b"\r\n")) <= 998
    assert raw.isascii()
    assert mailbox.recipients == [list(TO)]


def test_names_in_other_scripts_arrive_unchanged(mailbox: Mailbox, port: int) -> None:
    mail(port).send("[xenbw] kundé-☃: null-routed", "kundé-☃ was null-routed\n", "1", AT)
    assert mailbox.read()["Subject"] == "[xenbw] kundé-☃: null-routed"
    assert mailbox.text() == "kundé-☃ was null-routed\n"


@pytest.mark.parametrize("host_name", ["rack 3\r\nX: y", "höst", "..", "a@b"])
def test_an_odd_host_name_still_makes_a_good_sender(host_name: str, mailbox: Mailbox, port: int) -> None:
    mail(port, host_name=host_name).send("s", "b", "1", AT)
    (address,) = mailbox.read()["From"].addresses
    assert address.username == "xenbw"
    assert address.domain.isascii()
    assert address.domain


def test_a_mail_has_the_same_words_as_text_and_as_html_and_its_id_in_a_header(mailbox: Mailbox, port: int) -> None:
    mail(port).send("s", "<b> & \u20ac\n", "12.1", AT)
    plain, page = mailbox.read().iter_parts()
    assert (plain.get_content_type(), page.get_content_type()) == ("text/plain", "text/html")
    assert "<p>&lt;b&gt; &amp; \u20ac</p>" in page.get_content()
    assert mailbox.read()["X-Xenbw-Id"] == "12.1"


def test_no_line_of_the_text_can_end_a_part_of_the_mail(mailbox: Mailbox, port: int) -> None:
    mail(port).send("s", "--=_xenbw.12.1\n\n--=_xenbw.12.1--\n", "12.1", AT)
    assert [part.get_content_type() for part in mailbox.read().iter_parts()] == ["text/plain", "text/html"]
    assert mailbox.text() == "--=_xenbw.12.1\n\n--=_xenbw.12.1--\n"


def test_a_line_with_a_single_dot_does_not_end_the_message(mailbox: Mailbox, port: int) -> None:
    mail(port).send("s", "one\n.\n..two\n", "1", AT)
    assert mailbox.text() == "one\n.\n..two\n"


def test_the_configured_login_is_used(mailbox: Mailbox) -> None:
    with serve(mailbox, login=("desk", "s3cret")) as port:
        mail(port, user="desk", password="s3cret").send("s", "b", "1", AT)
    assert len(mailbox.letters) == 1


def test_a_refused_login_is_temporary_and_does_not_show_the_password(mailbox: Mailbox) -> None:
    with serve(mailbox, login=("desk", "right")) as port, failing(permanent=False) as said:
        mail(port, user="desk", password="s3cret").send("s", "b", "1", AT)
    assert "refuses the login of desk (535)" in said[0]
    assert "s3cret" not in said[0]


def test_a_password_that_smtp_cannot_carry_is_reported_without_showing_it(mailbox: Mailbox) -> None:
    with serve(mailbox, login=("desk", "right")) as port, failing(permanent=False) as said:
        mail(port, user="desk", password="pässwört").send("s", "b", "1", AT)
    assert "only ASCII" in said[0]
    assert "ssw" not in said[0].replace("password", "")


def test_a_server_without_login_is_a_temporary_failure(port: int) -> None:
    with failing(permanent=False):
        mail(port, user="desk", password="s3cret").send("s", "b", "1", AT)


def test_starttls_encrypts_to_a_server_whose_authority_is_trusted(
    mailbox: Mailbox, authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    with serve(mailbox, tls=authority[1]) as port:
        mail(port, starttls=True).send("s", "b", "1", AT)
    assert mailbox.encrypted == [True]


def test_starttls_refuses_a_certificate_of_an_unknown_authority(
    mailbox: Mailbox, authority: tuple[Path, ssl.SSLContext]
) -> None:
    with serve(mailbox, tls=authority[1]) as port, failing(permanent=False) as said:
        mail(port, starttls=True).send("s", "b", "1", AT)
    assert "CERTIFICATE_VERIFY_FAILED" in said[0]
    assert mailbox.letters == []


def test_starttls_refuses_a_certificate_for_another_host(
    mailbox: Mailbox, authority: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    with serve(mailbox, tls=authority[1]) as port, failing(permanent=False):
        mail(port, host="127.0.0.1", starttls=True).send("s", "b", "1", AT)
    assert mailbox.letters == []


def test_a_server_without_starttls_gets_no_message_unencrypted(mailbox: Mailbox, port: int) -> None:
    with failing(permanent=False) as said:
        mail(port, starttls=True).send("s", "b", "1", AT)
    assert "STARTTLS" in said[0]
    assert mailbox.letters == []


def test_a_server_that_is_away_is_a_temporary_failure_that_names_it() -> None:
    port = free_port()
    with failing(permanent=False) as said:
        mail(port).send("s", "b", "1", AT)
    assert f"mail server localhost:{port}: Connection refused" in said[0]


@pytest.mark.parametrize("host", [".example.invalid", "nowhere.invalid", "x" * 70])
def test_an_unknown_host_name_is_a_temporary_failure(host: str) -> None:
    with failing(permanent=False):
        mail(25, host=host).send("s", "b", "1", AT)


def test_a_silent_server_is_waited_for_only_until_the_timeout(mailbox: Mailbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with failing(permanent=False) as said:
            mail(silent.getsockname()[1], host="127.0.0.1", timeout=0.2).send("s", "b", "1", AT)
    assert time.monotonic() - begin < busy(1)
    assert "timed out" in said[0]


ACCEPTS = b"220 ready\r\n250 hello\r\n250 sender\r\n250 recipient\r\n"


@pytest.mark.parametrize("before", [b"", b"220 ready\r\n", ACCEPTS])
def test_a_server_that_sends_a_letter_now_and_then_is_given_up_in_time(before: bytes) -> None:
    with dripping(before) as port:
        begin = time.monotonic()
        with failing(permanent=False) as said:
            mail(port, host="127.0.0.1", limit=0.5).send("s", "b", "1", AT)
    assert time.monotonic() - begin < busy(1)
    assert said[0].startswith(f"mail server 127.0.0.1:{port} has not accepted the message within 0.5 s")


def test_a_server_that_hangs_up_in_data_is_a_temporary_failure_of_this_message_only() -> None:
    with dripping(ACCEPTS + b"354 go on\r\n", drip=0) as port, pytest.raises(DeliveryError) as caught:
        mail(port, host="127.0.0.1").send("s", "b", "1", AT)
    assert not caught.value.permanent
    assert not caught.value.unreachable


def test_a_server_that_stops_reading_in_data_is_not_tried_with_the_next_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve_one() -> None:
            stream, _ = listening.accept()
            taken.append(stream)
            stream.sendall(ACCEPTS + b"354 go on\r\n")  # and read nothing more

        taken: list[socket.socket] = []
        thread = threading.Thread(target=serve_one)
        thread.start()
        with pytest.raises(DeliveryError) as caught:
            mail(listening.getsockname()[1], host="127.0.0.1", timeout=0.3).send("s", "b" * 10_000_000, "1", AT)
        thread.join()
        taken[0].close()
    assert caught.value.unreachable
    assert not caught.value.permanent


@pytest.mark.parametrize(("answer", "permanent"), [("451 try later", False), ("554 5.7.1 spam", True)])
def test_a_refused_message_is_permanent_only_if_the_server_says_so(
    answer: str, permanent: bool, mailbox: Mailbox, port: int
) -> None:
    mailbox.at_data = answer
    with failing(permanent) as said:
        mail(port).send("s", "b", "1", AT)
    assert answer in said[0]


@pytest.mark.parametrize(("answer", "permanent"), [("450 greylisted", False), ("550 no such user", True)])
def test_a_refused_recipient_is_permanent_only_if_the_server_says_so(
    answer: str, permanent: bool, mailbox: Mailbox, port: int
) -> None:
    mailbox.at_recipient[TO[0]] = answer
    with failing(permanent) as said:
        mail(port).send("s", "b", "1", AT)
    assert f"{TO[0]}: {answer}" in said[0]


def test_one_recipient_refused_for_now_keeps_the_message_for_all(mailbox: Mailbox, port: int) -> None:
    mailbox.at_recipient.update({"a@example.com": "550 no such user", "b@example.com": "450 later"})
    with failing(permanent=False):
        mail(port, to=("a@example.com", "b@example.com")).send("s", "b", "1", AT)


def test_a_recipient_that_is_refused_while_others_are_accepted_is_named(mailbox: Mailbox, port: int) -> None:
    mailbox.at_recipient["gone@example.com"] = "550 no such user"
    refused = mail(port, to=("gone@example.com", *TO)).send("s", "b", "1", AT)
    assert refused == {"gone@example.com": ("550 no such user", True)}
    assert mailbox.recipients == [list(TO)]


def test_an_odd_answer_to_quit_does_not_undo_an_accepted_message(mailbox: Mailbox, port: int) -> None:
    mailbox.at_quit = "421 going down"
    assert mail(port).send("s", "b", "1", AT) == {}
    assert len(mailbox.letters) == 1


@pytest.mark.parametrize(
    "address", ["", "two@a, three@b", "a b@c", "x@y>", "<x@y", "x@y\r\nBcc: z@y", "ü@x", 'a"<b@c>']
)
def test_an_invalid_address_is_refused_before_anything_is_sent(address: str) -> None:
    with pytest.raises(UsageError):
        mail(25, to=(address,))

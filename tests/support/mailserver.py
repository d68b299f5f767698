"""A real SMTP server (aiosmtpd) that keeps the mails it gets, or refuses them if told; and certificates from
openssl."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from threading import Event

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass
class Mailbox:
    """The mails that arrived, and how the server answers. `arrived` is set at each message."""

    letters: list[bytes] = field(default_factory=list)
    senders: list[str | None] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    arrived: Event = field(default_factory=Event)
    at_recipient: dict[str, str] = field(default_factory=dict)
    at_data: str = "250 OK"
    at_quit: str = "221 Bye"

    async def handle_RCPT(  # noqa: N802 (aiosmtpd's name)
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        answer = self.at_recipient.get(address, "250 OK")
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(  # noqa: N802 (aiosmtpd's name)
        self, _server: SMTP, session: Session, envelope: Envelope
    ) -> str:
        if self.at_data.startswith("2"):
            assert isinstance(envelope.content, bytes)
            self.letters.append(envelope.content)
            self.senders.append(envelope.mail_from)
            self.recipients.append(list(envelope.rcpt_tos))
            self.encrypted.append(session.ssl is not None)
            self.arrived.set()
        return self.at_data

    async def handle_QUIT(  # noqa: N802 (aiosmtpd's name)
        self, _server: SMTP, _session: Session, _envelope: Envelope
    ) -> str:
        return self.at_quit

    def read(self, number: int = -1) -> EmailMessage:
        """A mail that arrived, parsed as by a mail reader."""
        return BytesParser(EmailMessage, policy=policy.default).parsebytes(self.letters[number])

    def text(self, number: int = -1) -> str:
        """The mail's text, with the line ends of this system."""
        part = self.read(number).get_body(("plain",))
        assert part is not None
        content = part.get_content()
        assert isinstance(content, str)
        return content.replace("\r\n", "\n")


def free_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@contextmanager
def serve(
    mailbox: Mailbox,
    *,
    port: int = 0,
    login: tuple[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """Runs the server on its port, in a thread."""

    def check(_server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        return AuthResult(success=(data.login.decode(), data.password.decode()) == login, handled=False)

    controller = Controller(
        mailbox,
        hostname="127.0.0.1",
        port=port or free_port(),
        loop=asyncio.new_event_loop(),
        tls_context=tls,
        require_starttls=tls is not None,
        authenticator=check if login else None,
        auth_required=login is not None,
        auth_require_tls=False,
    )
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


def make_authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate for localhost: (the file to trust, the server's file)."""
    certificate, key = folder / "ca.pem", folder / "key.pem"
    options = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *options, *subject, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context

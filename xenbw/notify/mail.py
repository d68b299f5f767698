"""Sending one message by SMTP.

smtplib, email and ssl are imported when the first message is sent: they cost some 6 MB, and most daemons never send
one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from xenbw.config import MAIL_ADDRESS, MailSection
from xenbw.errors import UsageError, XenbwError
from xenbw.notify.message import one_line

if TYPE_CHECKING:
    import smtplib
    from email.headerregistry import Address

_LONGEST_SUBJECT = 200


class MailError(XenbwError):
    """The message was not accepted. permanent: nor will it be, however often it is sent."""

    def __init__(self, message: str, hint: str | None = None, *, permanent: bool = False) -> None:
        super().__init__(message, hint)
        self.permanent = permanent


def _parse(text: str) -> tuple[str, str, str]:
    """(display name, user, domain) of an address as the configuration takes it."""
    found = MAIL_ADDRESS.fullmatch(text)
    if found is None:
        raise UsageError(f"[mail] {text!r}: not a mail address")
    return (found["display"] or "").strip(), found["user"], found["domain"] or ""


def _bare(parsed: tuple[str, str, str]) -> str:
    _, user, domain = parsed
    return f"{user}@{domain}" if domain else user


def _header(parsed: tuple[str, str, str]) -> Address:
    from email.headerregistry import Address

    return Address(*parsed)


def _said(error: smtplib.SMTPResponseException) -> str:
    text = error.smtp_error
    return f"{error.smtp_code} {one_line(text.decode('utf-8', 'replace') if isinstance(text, bytes) else text)}"


def _words(answer: tuple[int, bytes]) -> str:
    return f"{answer[0]} {one_line(answer[1].decode('utf-8', 'replace'))}"


class Mail:
    """The way to the admin's mail server, as [mail] describes it."""

    def __init__(self, section: MailSection, host_name: str, *, timeout: float = 10.0) -> None:
        self._section, self._timeout = section, timeout
        # A host may be called what its admin likes; what stands after an @ may not.
        self._domain = re.sub(r"[^A-Za-z0-9.-]+", "-", host_name).strip(".-") or "localhost"
        self._sender = _parse(section.sender or f"xenbw@{self._domain}")
        self._to = [_parse(text) for text in section.to]

    def send(self, subject: str, body: str, message_id: str, written_at: datetime) -> Mapping[str, str]:
        """Hand the message to the server. Returns the recipients it refused while it took others, with its words.

        message_id: letters, digits and dots, the same whenever the message is repeated. Raises MailError.
        """
        letter = self._letter(subject, body, message_id, written_at)
        server = self._connect()
        try:
            self._greet(server)
            return self._hand_over(server, letter)
        finally:
            self._leave(server)

    def _letter(self, subject: str, body: str, message_id: str, written_at: datetime) -> bytes:
        from email import policy
        from email.message import EmailMessage

        # 7bit: not every relay takes 8BITMIME, and long lines are wrapped on the way.
        letter = EmailMessage(policy.SMTP.clone(cte_type="7bit"))
        letter["From"] = _header(self._sender)
        letter["To"] = [_header(parsed) for parsed in self._to]
        shown = one_line(subject)
        letter["Subject"] = shown if len(shown) <= _LONGEST_SUBJECT else shown[: _LONGEST_SUBJECT - 3] + "..."
        letter["Date"] = written_at
        letter["Message-ID"] = f"<xenbw.{message_id}@{self._domain}>"
        letter["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's vacation notice answers
        letter.set_content(body.encode("utf-8", "backslashreplace").decode())
        return letter.as_bytes()

    def _where(self) -> str:
        return f"mail server {self._section.host}:{self._section.port}"

    def _connect(self) -> smtplib.SMTP:
        import smtplib

        try:
            # Without a name to greet with, smtplib asks the DNS for this host's, with no time limit.
            return smtplib.SMTP(
                self._section.host, self._section.port, local_hostname=self._domain, timeout=self._timeout
            )
        except smtplib.SMTPResponseException as error:
            raise MailError(f"{self._where()} turned us away: {_said(error)}") from None
        except OSError as error:
            raise MailError(f"{self._where()}: {error.strerror or error}", "see [mail] host and port") from None
        except UnicodeError:
            raise MailError(f"{self._where()}: not a host name", "see [mail] host") from None

    def _greet(self, server: smtplib.SMTP) -> None:
        """STARTTLS and login, where they are wanted. What fails here is for the admin to repair, so it is temporary."""
        import smtplib
        import ssl

        section = self._section
        try:
            if section.starttls:
                server.starttls(context=ssl.create_default_context())
            if section.user:
                server.login(section.user, section.password)
        except smtplib.SMTPAuthenticationError as error:
            # The code only: nobody knows what a server repeats of what it was sent.
            raise MailError(
                f"{self._where()} refuses the login of {section.user} ({error.smtp_code})",
                "see [mail] user and password",
            ) from None
        except smtplib.SMTPNotSupportedError as error:
            raise MailError(f"{self._where()}: {error}", "see [mail] starttls and user") from None
        except smtplib.SMTPResponseException as error:
            raise MailError(f"{self._where()}: {_said(error)}") from None
        except UnicodeError:
            raise MailError("[mail] user and password: only ASCII characters can be sent") from None
        except OSError as error:
            raise MailError(f"{self._where()}: {error}") from None

    def _hand_over(self, server: smtplib.SMTP, letter: bytes) -> Mapping[str, str]:
        import smtplib

        try:
            refused = server.sendmail(_bare(self._sender), [_bare(parsed) for parsed in self._to], letter)
        except smtplib.SMTPRecipientsRefused as error:
            permanent = all(code >= 500 for code, _ in error.recipients.values())
            answers = "; ".join(f"{who}: {_words(answer)}" for who, answer in error.recipients.items())
            raise MailError(f"{self._where()} refuses every recipient: {answers}", permanent=permanent) from None
        except smtplib.SMTPDataError as error:
            permanent = error.smtp_code >= 500
            raise MailError(f"{self._where()} refuses the message: {_said(error)}", permanent=permanent) from None
        except smtplib.SMTPSenderRefused as error:
            # Its admin or ours can mend that, so the message is kept even where the server calls it final.
            raise MailError(f"{self._where()} refuses the sender: {_said(error)}", "see [mail] sender") from None
        except smtplib.SMTPResponseException as error:
            raise MailError(f"{self._where()}: {_said(error)}") from None
        except OSError as error:
            raise MailError(f"{self._where()}: {error}") from None
        return {who: _words(answer) for who, answer in refused.items()}

    @staticmethod
    def _leave(server: smtplib.SMTP) -> None:
        """Say goodbye; an answer that is late or odd no longer matters, the message was accepted or refused before."""
        try:
            server.quit()
        except OSError:
            server.close()

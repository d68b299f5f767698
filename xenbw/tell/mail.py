"""Send one message by SMTP.

smtplib and ssl are imported only when the first message is sent: with email they take about 6 MB, and most daemons
never send one.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING

from xenbw.config import MailSection
from xenbw.tell.carrier import DeliveryError, Refusal
from xenbw.tell.letter import Letterhead
from xenbw.text import printable

if TYPE_CHECKING:
    import smtplib


def _answer_in(error: smtplib.SMTPResponseException) -> str:
    text = error.smtp_error
    return f"{error.smtp_code} {printable(text.decode('utf-8', 'replace') if isinstance(text, bytes) else text)}"


def _words(answer: tuple[int, bytes]) -> str:
    return f"{answer[0]} {printable(answer[1].decode('utf-8', 'replace'))}"


def _is_timeout(error: BaseException | None) -> bool:
    """Whether a time limit was exceeded. smtplib raises an error of its own then, in the context of the socket's."""
    return error is not None and (isinstance(error, TimeoutError) or _is_timeout(error.__context__))


class Mail:
    """The carrier to the mail server that [mail] names."""

    def __init__(
        self,
        section: MailSection,
        host_name: str,
        *,
        timeout: float = 10.0,
        limit: float = 60.0,
        to_tenant: bool = False,
    ) -> None:
        """timeout: seconds until the server must have answered each step; limit: the whole message. to_tenant:
        see Letterhead."""
        self._section, self._timeout, self._limit = section, timeout, limit
        self._letterhead = Letterhead(section, host_name, to_tenant=to_tenant)

    def send(self, subject: str, body: str, message_id: str, written_at: datetime) -> Mapping[str, Refusal]:
        """See Carrier.send."""
        import smtplib

        letter = self._letterhead.write(subject, body, message_id, written_at, "\r\n")
        # Without local_hostname, smtplib asks the DNS for this host's name, with no time limit.
        server = smtplib.SMTP(local_hostname=self._letterhead.domain, timeout=self._timeout)
        # The name in the server's certificate; smtplib sets it only if its constructor connects.
        server._host = self._section.host  # type: ignore[attr-defined]
        with self._limited(server):
            try:
                self._connect(server)
                self._greet(server)
                return self._hand_over(server, letter)
            finally:
                self._leave(server)

    @contextmanager
    def _limited(self, server: smtplib.SMTP) -> Iterator[None]:
        """Cut the connection after the time limit for the whole message: a server that sends a letter now and then
        never exceeds the time limit of a socket."""
        cut = threading.Event()

        def end() -> None:
            cut.set()
            if server.sock is not None:
                with suppress(OSError):
                    # Not the method of a TLS socket, which other threads may not call.
                    socket.socket.shutdown(server.sock, socket.SHUT_RDWR)

        timer = threading.Timer(self._limit, end)
        timer.start()
        try:
            yield
        except DeliveryError:
            if cut.is_set():
                text = f"{self._where()} has not accepted the message within {self._limit:g} s"
                raise DeliveryError(text, unreachable=True) from None
            raise
        finally:
            timer.cancel()
            # executable.run needs a process without other threads.
            timer.join()

    def _where(self) -> str:
        return f"mail server {self._section.host}:{self._section.port}"

    def _connect(self, server: smtplib.SMTP) -> None:
        try:
            code, words = server.connect(self._section.host, self._section.port)
        except OSError as error:
            text = f"{self._where()}: {error.strerror or error}"
            raise DeliveryError(text, "see [mail] host and port", unreachable=True) from None
        except UnicodeError:
            raise DeliveryError(f"{self._where()}: not a host name", "see [mail] host", unreachable=True) from None
        if code != 220:
            text = f"{self._where()} refuses the connection: {_words((code, words))}"
            raise DeliveryError(text, unreachable=True)

    def _greet(self, server: smtplib.SMTP) -> None:
        """Do STARTTLS and login if configured. A failure here is temporary, because the admin can repair it."""
        import smtplib
        import ssl

        section = self._section
        try:
            if section.starttls:
                server.starttls(context=ssl.create_default_context())
            if section.user:
                server.login(section.user, section.password)
        except smtplib.SMTPAuthenticationError as error:
            # Show only the code: the server's text may repeat the password.
            raise DeliveryError(
                f"{self._where()} refuses the login of {section.user} ({error.smtp_code})",
                "see [mail] user and password",
                unreachable=True,
            ) from None
        except smtplib.SMTPNotSupportedError as error:
            raise DeliveryError(f"{self._where()}: {error}", "see [mail] starttls and user", unreachable=True) from None
        except smtplib.SMTPResponseException as error:
            raise DeliveryError(f"{self._where()}: {_answer_in(error)}", unreachable=True) from None
        except UnicodeError:
            text = "[mail] user and password: only ASCII characters can be sent"
            raise DeliveryError(text, unreachable=True) from None
        except OSError as error:
            raise DeliveryError(f"{self._where()}: {error}", unreachable=True) from None

    def _hand_over(self, server: smtplib.SMTP, letter: bytes) -> Mapping[str, Refusal]:
        import smtplib

        try:
            refused = server.sendmail(self._letterhead.sender, self._letterhead.recipients, letter)
        except smtplib.SMTPRecipientsRefused as error:
            permanent = all(code >= 500 for code, _ in error.recipients.values())
            answers = "; ".join(f"{who}: {_words(answer)}" for who, answer in error.recipients.items())
            raise DeliveryError(f"{self._where()} refuses every recipient: {answers}", permanent=permanent) from None
        except smtplib.SMTPDataError as error:
            permanent = error.smtp_code >= 500
            text = f"{self._where()} refuses the message: {_answer_in(error)}"
            raise DeliveryError(text, permanent=permanent) from None
        except smtplib.SMTPSenderRefused as error:
            # Keep the message even if the server calls this final: the admin of either side can repair it.
            text = f"{self._where()} refuses the sender: {_answer_in(error)}"
            raise DeliveryError(text, "see [mail] sender") from None
        except smtplib.SMTPResponseException as error:
            raise DeliveryError(f"{self._where()}: {_answer_in(error)}") from None
        except OSError as error:
            # A server that hangs up at this message may take the next one; one that is silent would not.
            raise DeliveryError(f"{self._where()}: {error}", unreachable=_is_timeout(error)) from None
        return {who: Refusal(_words(answer), for_good=answer[0] >= 500) for who, answer in refused.items()}

    @staticmethod
    def _leave(server: smtplib.SMTP) -> None:
        """End the connection. A late or odd answer no longer matters: the message was accepted or refused before."""
        try:
            server.quit()
        except OSError:
            server.close()

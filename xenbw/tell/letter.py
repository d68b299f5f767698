"""Write a message as a mail, with its sender and recipients.

The module email is imported only when the first mail is written: it costs memory, and most daemons never write one.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from xenbw.checks import MAIL_ADDRESS
from xenbw.config import MailSection
from xenbw.errors import UsageError
from xenbw.tell.markup import html_of
from xenbw.text import printable

if TYPE_CHECKING:
    from email.headerregistry import Address

_LONGEST_SUBJECT = 200


def _parse(text: str) -> tuple[str, str, str]:
    """(display name, user, domain) of an address from the configuration."""
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


class Letterhead:
    """The sender and recipients of this host's mails, as [mail] says. sender, recipients: bare addresses."""

    def __init__(self, section: MailSection, host_name: str, *, to_tenant: bool = False) -> None:
        """to_tenant: name the host nowhere, as far as [mail] sender allows it."""
        # The admin may give the host any name, but not every name is valid after an @.
        self.domain = re.sub(r"[^A-Za-z0-9.-]+", "-", host_name).strip(".-") or "localhost"
        self._from = _parse(section.sender or f"xenbw@{self.domain}")
        self._to = [_parse(text) for text in section.to]
        self.sender = _bare(self._from)
        self._id_domain = (to_tenant and self._from[2]) or self.domain
        self.recipients = [_bare(parsed) for parsed in self._to]

    def write(self, subject: str, body: str, message_id: str, written_at: datetime, line_end: str) -> bytes:
        """The mail in ASCII characters only, as text and as HTML; message_id as in Carrier.send."""
        from email import policy
        from email.message import EmailMessage

        # 7bit: not every relay accepts 8BITMIME, and some relays wrap long lines.
        letter = EmailMessage(policy.SMTP.clone(cte_type="7bit", linesep=line_end))
        letter["From"] = _header(self._from)
        letter["To"] = [_header(parsed) for parsed in self._to]
        # The module email decodes encoded words (RFC 2047), even those that come in a name.
        shown = printable(subject).replace("=?", "= ?")
        letter["Subject"] = shown if len(shown) <= _LONGEST_SUBJECT else shown[: _LONGEST_SUBJECT - 3] + "..."
        letter["Date"] = written_at
        letter["Message-ID"] = f"<xenbw.{message_id}@{self._id_domain}>"
        letter["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notice answers
        letter["X-Xenbw-Id"] = message_id
        text = body.encode("utf-8", "backslashreplace").decode()
        # Quoted-printable: it writes every = as =3D, so that no line of the text can be the boundary.
        letter.set_content(text, cte="quoted-printable")
        letter.add_alternative(html_of(text), subtype="html", cte="quoted-printable")
        letter.set_boundary(f"=_xenbw.{message_id}")  # a repeat is the same to the byte
        return letter.as_bytes()

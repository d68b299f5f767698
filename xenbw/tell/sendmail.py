"""Hand one message to this host's own mail system, by its sendmail program."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from xenbw.config import MailSection
from xenbw.tell import executable
from xenbw.tell.carrier import Refusal
from xenbw.tell.letter import Letterhead


class Sendmail:
    """The program that [mail] sendmail names. Every mail system's sendmail accepts -i, -f, and recipients after --."""

    def __init__(self, section: MailSection, host_name: str, *, timeout: float = 60.0, to_tenant: bool = False) -> None:
        self._program, self._timeout = section.sendmail, timeout
        self._letterhead = Letterhead(section, host_name, to_tenant=to_tenant)

    def send(self, subject: str, body: str, message_id: str, written_at: datetime) -> Mapping[str, Refusal]:
        """See Carrier.send."""
        head = self._letterhead
        letter = head.write(subject, body, message_id, written_at, "\n")
        # -i: a line with a single dot does not end the letter.
        executable.run([self._program, "-i", "-f", head.sender, "--", *head.recipients], letter, self._timeout)
        return {}

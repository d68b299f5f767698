"""Deliver a message to the admin's own program, as a JSON object on its standard input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from xenbw.config import CommandSection
from xenbw.tell import executable
from xenbw.tell.carrier import Refusal


class Command:
    """The program in [command], with only the arguments given there: guests choose names, so none is an argument."""

    def __init__(self, section: CommandSection) -> None:
        self._section = section

    def send(self, _subject: str, body: str, message_id: str, _written_at: datetime) -> Mapping[str, Refusal]:
        """See Carrier.send. body: a JSON object; the program reads it with message_id added as "id"."""
        document = {"id": message_id, **json.loads(body)}
        executable.run(self._section.run, f"{json.dumps(document)}\n".encode("ascii"), self._section.timeout)
        return {}

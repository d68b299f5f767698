"""The log: one line per event, in the journal as an entry with fields, else on standard error."""

from __future__ import annotations

import logging
import os
from typing import TextIO

from xenbw.tell.journal import Journal, priority
from xenbw.text import printable


def log_to(stream: TextIO, identifier: str) -> None:
    """Write all log lines from now on to this stream; if it is the journal, then as entries of this identifier."""
    in_journal = _is_journal(stream)
    handler: logging.Handler = logging.StreamHandler(stream)
    handler.setFormatter(_Line(prefixed=in_journal))
    root = logging.getLogger()
    root.addHandler(Journal(identifier, handler) if in_journal else handler)
    root.setLevel(logging.INFO)


def _is_journal(stream: TextIO) -> bool:
    """Whether the stream is the journal: systemd gives the device and inode of that stream (systemd.exec(5))."""
    status = os.fstat(stream.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Line(logging.Formatter):
    """Formats a record as one line, with a priority for the journal. Guests choose the names in it, which may hold line
    breaks or imitate a priority."""

    def __init__(self, *, prefixed: bool) -> None:
        super().__init__("%(message)s")
        self._prefixed = prefixed

    def format(self, record: logging.LogRecord) -> str:
        line = printable(super().format(record))
        return f"<{priority(record.levelno)}>{line}" if self._prefixed else line

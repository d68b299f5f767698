"""The daemon's log: one line per event on standard error, with a priority if standard error is the journal."""

from __future__ import annotations

import logging
import os
from typing import TextIO

from xenbw.text import printable

# For important lines that are not problems. syslog(3) has this level between INFO and WARNING, logging lacks it.
NOTICE = 25

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (NOTICE, 5), (logging.INFO, 6))  # sd-daemon(3)


def log_to(stream: TextIO) -> None:
    """Write all log lines from now on to this stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Line(prefixed=_is_journal(stream)))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def _is_journal(stream: TextIO) -> bool:
    """Whether the stream is the journal: systemd gives the device and inode of that stream (systemd.exec(5))."""
    status = os.fstat(stream.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Line(logging.Formatter):
    """Formats a record as one line. Guests choose the names in it, which may hold line breaks or imitate a priority."""

    def __init__(self, *, prefixed: bool) -> None:
        super().__init__("%(message)s")
        self._prefixed = prefixed

    def format(self, record: logging.LogRecord) -> str:
        line = printable(super().format(record))
        return f"<{_priority(record.levelno)}>{line}" if self._prefixed else line


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)

"""The daemon's log: a line for each event on standard error, with its priority where the journal reads it."""

from __future__ import annotations

import logging
import os
from typing import TextIO

from xenbw.text import printable

# What an admin reads the log for, though nothing is wrong: syslog(3) has it between INFO and WARNING, logging has not.
NOTICE = 25

_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (NOTICE, 5), (logging.INFO, 6))  # sd-daemon(3)


def log_to(stream: TextIO) -> None:
    """Write what is logged from now on to this stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Line(prefixed=_is_journal(stream)))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)


def _is_journal(stream: TextIO) -> bool:
    """Whether it leads to the journal: systemd names the device and inode of that stream (systemd.exec(5))."""
    status = os.fstat(stream.fileno())
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Line(logging.Formatter):
    """A record as one line: names in it are guests', and may hold line breaks or begin like a priority."""

    def __init__(self, *, prefixed: bool) -> None:
        super().__init__("%(message)s")
        self._prefixed = prefixed

    def format(self, record: logging.LogRecord) -> str:
        line = printable(super().format(record))
        return f"<{_priority(record.levelno)}>{line}" if self._prefixed else line


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), 7)

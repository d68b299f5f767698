"""What the admin's command reads: an announcement as JSON. Programs build on its keys: bytes are integers, times are
RFC 3339 in UTC, absent is null."""

from __future__ import annotations

import json
from datetime import datetime

from xenbw.tell.message import Case
from xenbw.units import format_time


def document(kind: str, case: Case, reason: str, mail: tuple[str, str], until: datetime | None = None) -> str:
    """One announcement. kind: the event's. reason: why it happened. mail: the same as a mail, (subject, text). until:
    when a block ends by itself. ASCII only: whatever a guest is called, it moves no cursor and breaks no line."""
    subject, text = mail
    return json.dumps(
        {
            "kind": kind,
            "host": case.host,
            "vm": case.name,
            "reason": reason,
            "at": format_time(case.at),
            "until": format_time(until) if until else None,
            "addresses": [str(address) for address in case.addresses],
            "period_start": format_time(case.period.start),
            "period_end": format_time(case.period.end),
            "used_bytes": case.used_bytes,
            "limit_bytes": case.allowance.limit_bytes,
            "count": case.allowance.count.value,
            "subject": subject,
            "text": text,
        }
    )

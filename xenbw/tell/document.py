"""The JSON of an announcement, for the admin's command. Its keys are an interface: bytes are integers, times are
RFC 3339 in UTC, missing values are null."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from xenbw.tell.alarm import Trouble
from xenbw.tell.message import Case
from xenbw.units import format_time

# Keys that only an announcement of a VM fills.
_OF_VM = (
    "until",
    "period_start",
    "period_end",
    "used_bytes",
    "limit_bytes",
    "count",
    "threshold",
    "crosses_at",
    "flood",
)


def dropped(queue: str, count: int, host: str, at: datetime, mail: tuple[str, str]) -> str:
    """The JSON of the message that messages of this queue were dropped. It has the keys of every announcement, and
    `dropped`, how many."""
    subject, text = mail
    reason = f"{count} messages that waited for {queue} were dropped"
    return json.dumps(
        {
            "kind": "messages-dropped",
            "host": host,
            "vm": None,
            "reason": reason,
            "at": format_time(at),
            "addresses": [],
            **dict.fromkeys(_OF_VM),
            "trouble": None,
            "subject": subject,
            "text": text,
            "dropped": count,
        }
    )


def document(
    kind: str,
    case: Case,
    reason: str,
    mail: tuple[str, str],
    until: datetime | None = None,
    *,
    threshold: int | None = None,
    crosses_at: datetime | None = None,
    flood: Mapping[str, object] | None = None,
) -> str:
    """One announcement of a VM as JSON. kind: the event's kind. reason: why it happened. mail: the same announcement as
    a mail, (subject, text). until: when the block or the throttle ends by itself. threshold: the percent of the limit
    that was reached. crosses_at: when the VM will cross its allowance. flood: Surge.facts. The JSON is ASCII only, so
    that no guest's name can move a cursor or break a line."""
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
            "threshold": threshold,
            "crosses_at": format_time(crosses_at) if crosses_at else None,
            "flood": flood,
            "trouble": None,
            "subject": subject,
            "text": text,
        }
    )


def of_host(kind: str, trouble: Trouble, mail: tuple[str, str]) -> str:
    """One announcement of a trouble of the host, with the same keys; `trouble` has its key."""
    subject, text = mail
    return json.dumps(
        {
            "kind": kind,
            "host": trouble.host,
            "vm": None,
            "reason": trouble.text,
            "at": format_time(trouble.at),
            "addresses": [],
            **dict.fromkeys(_OF_VM),
            "trouble": trouble.key,
            "subject": subject,
            "text": text,
        }
    )

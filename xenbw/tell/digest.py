"""One mail for many messages: a line for each, by kind, and the ids of all of them."""

from __future__ import annotations

import json
import quopri
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from xenbw.ledger.outbox import Message
from xenbw.tell.markup import html_of
from xenbw.text import printable

# Bytes of a digest, with some left for its headers: a mail of less than 100 kB, which every mail server accepts.
_LARGEST = 95_000
# Bytes of the texts of all its messages, up to which a digest repeats them below its summary.
_BRIEF = 20_000
# Letters of a name and of a reason in its summary.
_NAME, _REASON = 120, 300
# How each kind is headed, the most urgent first.
_HEADINGS = {
    "unfiltered": "BLOCKS THAT DO NOT HOLD",
    "null-routed": "Null-routed",
    "trouble": "TROUBLES OF THE HOST",
    "flood-began": "Floods",
    "throttled": "Throttled",
    "over": "Over the allowance, not blocked",
    "warned": "Traffic warnings",
    "forecast": "Expected to cross the allowance",
    "forecast-off": "No longer expected to cross the allowance",
    "flood-ended": "Floods that ended",
    "trouble-over": "Troubles of the host that are over",
    "unthrottled": "No longer throttled",
    "released": "Released",
}
_URGENCY = {kind: place for place, kind in enumerate(_HEADINGS)}


def fitting(messages: tuple[Message, ...], host: str) -> tuple[Message, ...]:
    """As many of these messages, the first of them, as fit into one mail; at least one."""
    count = len(messages)
    while count > 1 and (size := _size(text_of(messages[:count], host))) > _LARGEST:
        count = max(1, min(count - 1, count * _LARGEST // size))
    return messages[:count]


def subject_of(messages: Sequence[Message], host: str) -> str:
    """The subject of a digest: how many messages of each kind it has."""
    counts = Counter(message.kind for message in sorted(messages, key=_place))
    kinds = ", ".join(f"{count} {kind or 'other'}" for kind, count in counts.items())
    return f"[xenbw] {host}: {len(messages)} messages: {kinds}"


def text_of(messages: Sequence[Message], host: str) -> str:
    """The text of a digest. It is the same whenever it is made from the same messages."""
    kinds = groupby(sorted(messages, key=_place), key=lambda message: message.kind)
    parts = [f"{len(messages)} messages of xenbw on {host}.", *(_section(kind, list(group)) for kind, group in kinds)]
    texts = [f"--- {printable(message.subject)}\n\n{message.body.strip()}" for message in messages]
    if sum(map(len, texts)) <= _BRIEF:
        parts += texts
    else:
        parts.append("The latest events of a VM: xenbw show VM")
    return "\n\n".join((*parts, _ids(messages))) + "\n"


def _place(message: Message) -> tuple[int, str, int]:
    return _URGENCY.get(message.kind, len(_URGENCY)), message.kind, message.id


def _section(kind: str, messages: Sequence[Message]) -> str:
    """The messages of one kind. A reason that all of them share is told once."""
    heading = f"{_HEADINGS.get(kind, kind or 'Other')} ({len(messages)})"
    lines = [_line(message) for message in messages]
    reasons = {reason for _, reason in lines}
    if len(reasons) == 1:
        heading += f": {reason}" if (reason := reasons.pop()) else ""
        return f"{heading}\n" + "\n".join(f"  {name}" for name, _ in lines)
    return f"{heading}\n" + "\n".join(f"  {name}: {reason}" if reason else f"  {name}" for name, reason in lines)


def _line(message: Message) -> tuple[str, str]:
    """The VM's name and the reason; of a message that is about no VM its subject, which has the reason, and ""."""
    facts: dict[str, Any] = json.loads(message.facts) if message.facts else {}
    if not facts.get("vm"):
        return _clipped(message.subject, _NAME), ""
    reason = _clipped(str(facts.get("reason") or ""), _REASON)
    if message.kind == "null-routed" and not facts.get("addresses"):
        reason += "; NO ADDRESS OF IT IS KNOWN, its traffic still passes"
    return _clipped(str(facts["vm"]), _NAME), reason


def _clipped(text: str, most: int) -> str:
    shown = printable(text)
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."


def _ids(messages: Sequence[Message]) -> str:
    """The ids of the messages. Those of one second stand together, because a thousand ids in full are 20 kB."""
    seconds: dict[str, list[str]] = {}
    for message in messages:
        number, _, second = message.name.partition(".")
        seconds.setdefault(second, []).append(number)
    lines = (f"  {second}: {' '.join(numbers)}" for second, numbers in seconds.items())
    return "Ids of these messages (an id is number.time, here time: numbers):\n" + "\n".join(lines)


def _size(text: str) -> int:
    """Bytes of the mail with this text, without its headers."""
    return sum(
        len(quopri.encodestring(part.encode("utf-8", "backslashreplace"))) + part.count("\n")
        for part in (text, html_of(text))
    )

"""The admin's own words for mails: a file for each kind, in [mail] templates.

A template is text with $names (string.Template), so it can run nothing. The mail's HTML part is made from its text, so
a template cannot break the mail either. If a template has a mistake, the built-in words are sent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo

from xenbw.checks import KINDS
from xenbw.ledger.outbox import Message
from xenbw.text import printable
from xenbw.units import format_size

# The folder below [mail] templates with the templates of the mails to tenants.
_TENANTS = "tenant"
_SUFFIX = ".txt"
_LARGEST = 65_536
_NAMES = (
    *("kind", "host", "vm", "reason", "addresses", "at", "until", "period_start", "period_end"),
    *("used", "limit", "count", "threshold", "crosses_at", "subject", "text"),
)


@dataclass(frozen=True)
class _Words:
    """A template: the first line of its file, and the text below it."""

    subject: Template
    body: Template


@dataclass(frozen=True)
class Templates:
    """The templates that could be read; their keys are (whether for tenants, kind). problems: why others could not.
    Times are shown in `zone`."""

    zone: ZoneInfo
    words: Mapping[tuple[bool, str], _Words] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[str, ...] = ()

    def worded(self, mail: Message) -> Message:
        """The mail in the admin's words, or unchanged if there is no template for it."""
        words = self.words.get((bool(mail.queue.address), mail.kind))
        if words is None or mail.facts is None:
            return mail
        values = _values(json.loads(mail.facts), mail, self.zone)
        return replace(mail, subject=words.subject.substitute(values), body=words.body.substitute(values))


def read(folder: Path | None, zone: ZoneInfo) -> Templates:
    """Read all templates in the folder; None: there are none."""
    if folder is None:
        return Templates(zone)
    words, problems = dict[tuple[bool, str], _Words](), []
    try:
        files = [*_files(folder, for_tenants=False), *_files(folder / _TENANTS, for_tenants=True)]
    except OSError as error:
        return Templates(zone, problems=(f"[mail] templates {folder}: {error.strerror}: the built-in words are sent",))
    for path, for_tenants in files:
        try:
            words[for_tenants, _kind(path)] = _parse(path)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            problems.append(f"template {path}: {why}: the built-in words are sent")
    return Templates(zone, MappingProxyType(words), tuple(problems))


def _files(folder: Path, *, for_tenants: bool) -> Iterator[tuple[Path, bool]]:
    """Its templates. Only the folder for tenants may be missing. Raises OSError."""
    if not (for_tenants and not folder.exists()):
        for path in sorted(folder.iterdir()):
            if path.suffix == _SUFFIX:
                yield path, for_tenants


def _kind(path: Path) -> str:
    if path.stem not in KINDS:
        raise ValueError(f"its name is not a kind of message, like {KINDS[0]}{_SUFFIX}")
    return path.stem


def _parse(path: Path) -> _Words:
    """Raises OSError, and ValueError for a mistake in the file."""
    with path.open("rb") as file:
        raw = file.read(_LARGEST + 1)
    if len(raw) > _LARGEST:
        raise ValueError(f"larger than {_LARGEST:,} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
    subject, _, body = text.replace("\r\n", "\n").partition("\n")
    if not subject.strip() or not body.strip():
        raise ValueError("it needs a subject in its first line, and a text below")
    words = _Words(Template(subject.strip()), Template(f"{body.strip()}\n"))
    for part in (words.subject, words.body):
        if not part.is_valid():
            raise ValueError("a $ that begins no name; write a dollar as $$")
        for name in part.get_identifiers():
            if name not in _NAMES:
                raise ValueError(f"unknown name ${name[:60]}; known: {', '.join(_NAMES)}")
    return words


def _values(facts: Mapping[str, Any], mail: Message, zone: ZoneInfo) -> dict[str, str]:
    """What the names stand for; guests choose some of them, so all but the built-in text are made printable."""
    limit, used = facts.get("limit_bytes"), facts.get("used_bytes")
    values = {
        **{name: str(facts.get(name) or "") for name in ("kind", "host", "vm", "reason", "count", "threshold")},
        **{name: _time(facts.get(name), zone) for name in ("at", "until", "period_start", "period_end", "crosses_at")},
        "addresses": ", ".join(facts.get("addresses") or ()),
        "used": "" if used is None else format_size(used),
        "limit": "" if limit is None else format_size(limit),
        "subject": mail.subject,
    }
    return {**{name: printable(value) for name, value in values.items()}, "text": mail.body.strip("\n")}


def _time(text: Any, zone: ZoneInfo) -> str:
    return datetime.fromisoformat(text).astimezone(zone).strftime("%Y-%m-%d %H:%M %Z") if text else ""

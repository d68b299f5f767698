"""All channels, and the carriers of each: one line each; and the routes of the messages that wait for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from xenbw.config import Settings
from xenbw.ledger.outbox import Channel, Queue
from xenbw.tell.announcement import Announcement
from xenbw.tell.carrier import Carrier
from xenbw.tell.command import Command
from xenbw.tell.mail import Mail
from xenbw.tell.sendmail import Sendmail
from xenbw.tell.webhook import Webhook


class Way(NamedTuple):
    """One way that the configuration asks for. queue: where its messages wait. carrier: makes its carrier. kinds: of
    the announcements that it carries; empty: all. text: what of an announcement it carries. outside: whether a service
    of its own delivers the messages, because it runs unknown programs or talks to unknown servers; the daemon itself
    delivers the others, inside its sandbox."""

    queue: Queue
    carrier: Callable[[], Carrier]
    kinds: tuple[str, ...]
    text: Callable[[Announcement], str]
    outside: bool = True


def _body(told: Announcement) -> str:
    return told.body


def _document(told: Announcement) -> str:
    return told.document


def _mail(settings: Settings) -> list[Way]:
    mail, host, queue = settings.mail, settings.host_name, Queue(Channel.MAIL)
    if not mail.to:
        return []
    if mail.sendmail:
        return [Way(queue, partial(Sendmail, mail, host), mail.kinds, _body)]
    return [Way(queue, partial(Mail, mail, host), mail.kinds, _body, outside=False)]


def _command(settings: Settings) -> list[Way]:
    command = settings.command
    return [Way(Queue(Channel.COMMAND), partial(Command, command), command.kinds, _document)] if command.run else []


def _webhook(settings: Settings) -> list[Way]:
    return [
        Way(Queue(Channel.WEBHOOK, hook.url), partial(Webhook, hook), hook.kinds, _document)
        for hook in settings.webhook
    ]


REGISTRY: Mapping[Channel, Callable[[Settings], list[Way]]] = {
    Channel.MAIL: _mail,
    Channel.COMMAND: _command,
    Channel.WEBHOOK: _webhook,
}


def ways(settings: Settings) -> list[Way]:
    """All ways that the configuration asks for."""
    return [way for of_channel in REGISTRY.values() for way in of_channel(settings)]


class Addressed(NamedTuple):
    """What of an announcement goes into a queue. facts: see outbox.Message."""

    queue: Queue
    body: str
    facts: str | None


def addressed(settings: Settings, told: Announcement) -> list[Addressed]:
    """The queues into which an announcement goes, each with what goes there."""
    return [
        Addressed(way.queue, way.text(told), told.document if way.queue.channel is Channel.MAIL else None)
        for way in ways(settings)
        if not way.kinds or told.kind in way.kinds
    ]


@dataclass(frozen=True)
class Routes:
    """How the messages of some queues are delivered. host: this host's name in digests."""

    host: str
    carriers: dict[Queue, Carrier]


def _routes(settings: Settings, *, outside: bool) -> Routes:
    chosen = [way for way in ways(settings) if way.outside is outside]
    return Routes(settings.host_name, {way.queue: way.carrier() for way in chosen})


def by_smtp(settings: Settings) -> Routes:
    """The routes that the daemon itself can use, inside its sandbox."""
    return _routes(settings, outside=False)


def by_service(settings: Settings) -> Routes:
    """The routes of a service of its own: by unknown programs and unknown servers."""
    return _routes(settings, outside=True)

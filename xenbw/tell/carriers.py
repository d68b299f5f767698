"""All channels, and the carriers of each: one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def by_smtp(settings: Settings) -> dict[Queue, Carrier]:
    """The carriers that the daemon itself can use, inside its sandbox."""
    return {way.queue: way.carrier() for way in ways(settings) if not way.outside}


def by_service(settings: Settings) -> dict[Queue, Carrier]:
    """The carriers that a service of its own uses: unknown programs and unknown servers."""
    return {way.queue: way.carrier() for way in ways(settings) if way.outside}


def addressed(settings: Settings, told: Announcement) -> list[tuple[Queue, str]]:
    """The queues into which an announcement goes, each with what goes there."""
    return [(way.queue, way.text(told)) for way in ways(settings) if not way.kinds or told.kind in way.kinds]

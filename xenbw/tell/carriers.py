"""All channels, and the carriers of each: one line each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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


class _Way(NamedTuple):
    """One way that the configuration asks for. address: tells several ways of a channel apart. kinds: of the
    announcements that it carries; empty: all. outside: whether a service of its own delivers the messages, because it
    runs unknown programs or talks to unknown servers; the daemon itself delivers the others, inside its sandbox."""

    carrier: Callable[[], Carrier]
    kinds: tuple[str, ...]
    outside: bool = True
    address: str = ""


class _Entry(NamedTuple):
    """ways: those of the channel. text: what of an announcement the channel carries."""

    ways: Callable[[Settings], list[_Way]]
    text: Callable[[Announcement], str]


def _mail(settings: Settings) -> list[_Way]:
    mail, host = settings.mail, settings.host_name
    if not mail.to:
        return []
    if mail.sendmail:
        return [_Way(lambda: Sendmail(mail, host), mail.kinds)]
    return [_Way(lambda: Mail(mail, host), mail.kinds, outside=False)]


def _command(settings: Settings) -> list[_Way]:
    command = settings.command
    return [_Way(lambda: Command(command), command.kinds)] if command.run else []


def _webhook(settings: Settings) -> list[_Way]:
    return [_Way(partial(Webhook, hook), hook.kinds, address=hook.url) for hook in settings.webhook]


REGISTRY: Mapping[Channel, _Entry] = {
    Channel.MAIL: _Entry(_mail, lambda told: told.body),
    Channel.COMMAND: _Entry(_command, lambda told: told.document),
    Channel.WEBHOOK: _Entry(_webhook, lambda told: told.document),
}


def _ways(settings: Settings) -> Iterator[tuple[Queue, _Way]]:
    for channel, entry in REGISTRY.items():
        for way in entry.ways(settings):
            yield Queue(channel, way.address), way


def by_smtp(settings: Settings) -> dict[Queue, Carrier]:
    """The carriers that the daemon itself can use, inside its sandbox."""
    return {queue: way.carrier() for queue, way in _ways(settings) if not way.outside}


def by_service(settings: Settings) -> dict[Queue, Carrier]:
    """The carriers that a service of its own uses: unknown programs and unknown servers."""
    return {queue: way.carrier() for queue, way in _ways(settings) if way.outside}


def any_wanted(settings: Settings) -> bool:
    """Whether announcements go anywhere."""
    return any(True for _ in _ways(settings))


def addressed(settings: Settings, told: Announcement) -> list[tuple[Queue, str]]:
    """The queues into which an announcement goes, each with what goes there."""
    return [
        (queue, REGISTRY[queue.channel].text(told))
        for queue, way in _ways(settings)
        if not way.kinds or told.kind in way.kinds
    ]

"""All channels, and the carriers of each: one line each; and the routes of the messages that wait for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import NamedTuple

from xenbw.config import Settings
from xenbw.ledger.outbox import Channel, Queue
from xenbw.model import Quiet
from xenbw.tell import templates
from xenbw.tell.announcement import Announcement
from xenbw.tell.carrier import Carrier
from xenbw.tell.command import Command
from xenbw.tell.mail import Mail
from xenbw.tell.sendmail import Sendmail
from xenbw.tell.templates import Templates
from xenbw.tell.webhook import Webhook


class Way(NamedTuple):
    """One way that the configuration asks for. queue: where its messages wait. carrier: makes its carrier. kinds: of
    the announcements that it carries; empty: all. text: what of an announcement it carries. outside: whether a service
    of its own delivers the messages, because it runs unknown programs or talks to unknown servers; the daemon itself
    delivers the others, inside its sandbox. tenant: makes the carrier to a tenant's addresses, if it carries mails.
    quiet: when only urgent messages go."""

    queue: Queue
    carrier: Callable[[], Carrier]
    kinds: tuple[str, ...]
    text: Callable[[Announcement], str]
    outside: bool = True
    tenant: Callable[[str], Carrier] | None = None
    quiet: Quiet | None = None


def _body(told: Announcement) -> str:
    return told.body


def _document(told: Announcement) -> str:
    return told.document


def _mail(settings: Settings) -> list[Way]:
    mail, host, queue = settings.mail, settings.host_name, Queue(Channel.MAIL)
    if not mail.to:
        return []
    make: Callable[..., Carrier] = Sendmail if mail.sendmail else Mail

    def tenant(addresses: str) -> Carrier:
        return make(replace(mail, to=tuple(addresses.split())), host, to_tenant=True)

    return [Way(queue, partial(make, mail, host), mail.kinds, _body, bool(mail.sendmail), tenant, mail.quiet)]


def _command(settings: Settings) -> list[Way]:
    command = settings.command
    if not command.run:
        return []
    queue = Queue(Channel.COMMAND)
    return [Way(queue, partial(Command, command), command.kinds, _document, quiet=command.quiet)]


def _webhook(settings: Settings) -> list[Way]:
    return [
        Way(Queue(Channel.WEBHOOK, hook.url), partial(Webhook, hook), hook.kinds, _document, quiet=hook.quiet)
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
    subject: str
    body: str
    facts: str | None


def addressed(settings: Settings, told: Announcement) -> list[Addressed]:
    """The queues into which an announcement goes, each with what goes there. The tenant's mail does not depend on the
    kinds that the admin wants."""
    found, chosen = [], ways(settings)
    for way in chosen:
        if not way.kinds or told.kind in way.kinds:
            facts = told.document if way.queue.channel is Channel.MAIL else None
            found.append(Addressed(way.queue, told.subject, way.text(told), facts))
    if (copy := told.copy) is not None and any(way.tenant for way in chosen):
        found.append(Addressed(Queue(Channel.MAIL, copy.to), copy.subject, copy.body, copy.document))
    return found


@dataclass(frozen=True)
class Routes:
    """How the messages of some queues are delivered. host: this host's name in digests. tenant: makes the carrier to a
    tenant's addresses, if mails go these ways."""

    host: str
    carriers: dict[Queue, Carrier]
    templates: Templates
    tenant: Callable[[str], Carrier] | None
    quiet: Mapping[Queue, Quiet]

    def is_quiet(self, queue: Queue, moment: datetime) -> bool:
        """Whether only urgent messages of this queue go at that moment. Mails to tenants keep the admin's hours."""
        hours = self.quiet.get(Queue(Channel.MAIL) if queue.channel is Channel.MAIL else queue)
        return hours is not None and hours.covers(moment, self.templates.zone)

    def carrier(self, queue: Queue) -> Carrier:
        """The carrier of a queue, which is one of `carriers` or, if there is a `tenant`, of mails to tenants."""
        if queue in self.carriers or self.tenant is None:
            return self.carriers[queue]
        return self.tenant(queue.address)


def _routes(settings: Settings, *, outside: bool) -> Routes:
    chosen = [way for way in ways(settings) if way.outside is outside]
    return Routes(
        settings.host_name,
        {way.queue: way.carrier() for way in chosen},
        templates.read(settings.mail.templates, settings.period.timezone),
        next((way.tenant for way in chosen if way.tenant), None),
        {way.queue: way.quiet for way in chosen if way.quiet is not None},
    )


def by_smtp(settings: Settings) -> Routes:
    """The routes that the daemon itself can use, inside its sandbox."""
    return _routes(settings, outside=False)


def by_service(settings: Settings) -> Routes:
    """The routes of a service of its own: by unknown programs and unknown servers."""
    return _routes(settings, outside=True)

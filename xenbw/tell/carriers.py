"""All channels, and the carrier of each: one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from xenbw.config import Settings
from xenbw.ledger.outbox import Channel
from xenbw.tell.announcement import Announcement
from xenbw.tell.carrier import Carrier
from xenbw.tell.command import Command
from xenbw.tell.mail import Mail
from xenbw.tell.sendmail import Sendmail


class _Entry(NamedTuple):
    """wanted: whether the configuration asks for the channel. runs_program: whether an unknown program delivers the
    messages, which a service of its own runs; the daemon itself delivers the others, inside its sandbox.
    text: what of an announcement the channel carries."""

    wanted: Callable[[Settings], bool]
    runs_program: Callable[[Settings], bool]
    carrier: Callable[[Settings], Carrier]
    text: Callable[[Announcement], str]


def _mail(settings: Settings) -> Carrier:
    mail = settings.mail
    if mail.sendmail:
        return Sendmail(mail, settings.host_name)
    return Mail(mail, settings.host_name)


REGISTRY: Mapping[Channel, _Entry] = {
    Channel.MAIL: _Entry(lambda s: bool(s.mail.to), lambda s: bool(s.mail.sendmail), _mail, lambda told: told.body),
    Channel.COMMAND: _Entry(
        lambda s: bool(s.command.run), lambda _: True, lambda s: Command(s.command), lambda told: told.document
    ),
}


def by_smtp(settings: Settings) -> dict[Channel, Carrier]:
    """The carriers that the daemon itself can use, inside its sandbox."""
    return _carriers(settings, runs_program=False)


def by_executables(settings: Settings) -> dict[Channel, Carrier]:
    """The carriers that run unknown programs, in a service of their own."""
    return _carriers(settings, runs_program=True)


def _carriers(settings: Settings, *, runs_program: bool) -> dict[Channel, Carrier]:
    return {
        channel: entry.carrier(settings)
        for channel, entry in REGISTRY.items()
        if entry.wanted(settings) and entry.runs_program(settings) is runs_program
    }


def channels(settings: Settings) -> tuple[Channel, ...]:
    """The channels to which an announcement goes."""
    return tuple(channel for channel, entry in REGISTRY.items() if entry.wanted(settings))


def text_for(channel: Channel, told: Announcement) -> str:
    """What of the announcement goes by this channel."""
    return REGISTRY[channel].text(told)

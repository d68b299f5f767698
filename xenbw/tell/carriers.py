"""The channels that the configuration asks for, and the carrier of each: an SMTP server or a program."""

from __future__ import annotations

from xenbw.config import Settings
from xenbw.ledger.outbox import Channel
from xenbw.tell.carrier import Carrier
from xenbw.tell.command import Command
from xenbw.tell.mail import Mail
from xenbw.tell.sendmail import Sendmail


def by_smtp(settings: Settings) -> dict[Channel, Carrier]:
    """The carriers that the daemon itself can use, inside its sandbox."""
    mail = settings.mail
    return {Channel.MAIL: Mail(mail, settings.host_name)} if mail.to and not mail.sendmail else {}


def by_executables(settings: Settings) -> dict[Channel, Carrier]:
    """The carriers that run unknown programs, in a service of their own."""
    found: dict[Channel, Carrier] = {}
    if settings.mail.to and settings.mail.sendmail:
        found[Channel.MAIL] = Sendmail(settings.mail, settings.host_name)
    if settings.command.run:
        found[Channel.COMMAND] = Command(settings.command)
    return found


def channels(settings: Settings) -> tuple[Channel, ...]:
    """The channels to which an announcement goes."""
    wanted = ((Channel.MAIL, settings.mail.to), (Channel.COMMAND, settings.command.run))
    return tuple(channel for channel, configured in wanted if configured)

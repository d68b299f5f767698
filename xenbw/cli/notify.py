"""xenbw notify --test: send a sample by each channel, and show what the channel answered."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from datetime import datetime

from xenbw.cli.command import Command, Context
from xenbw.cli.terminal import say
from xenbw.errors import XenbwError
from xenbw.ledger.outbox import Channel, Message
from xenbw.tell import carriers, templates
from xenbw.tell.announcement import Announcement, sample
from xenbw.tell.carrier import DeliveryError
from xenbw.tell.carriers import Way
from xenbw.tell.templates import Templates
from xenbw.text import printable


def arguments(parser: ArgumentParser) -> None:
    channels = [channel.value for channel in Channel]
    parser.add_argument("channel", metavar="CHANNEL", nargs="?", choices=channels, help=f"only {', '.join(channels)}")
    parser.add_argument("--test", action="store_true", required=True, help="send a sample, and show what is answered")


def run(options: Namespace, context: Context) -> int:
    settings, at = context.settings, context.clock.tick().wall
    words, works = templates.read(settings.mail.templates, settings.period.timezone), []
    if options.channel in (None, Channel.MAIL):
        for problem in words.problems:
            say(printable(f"mail: FAILED: {problem}"))
        works = [False] * len(words.problems)
    for way in carriers.ways(settings):
        if options.channel in (None, way.queue.channel):
            told = sample(way.kinds[0] if way.kinds else "warned", settings.host_name, settings.period.timezone, at)
            works.append(_try(way, told, at, words))
    if not works:
        where = f"[[{options.channel}]]" if options.channel == Channel.WEBHOOK else f"[{options.channel}]"
        missing = where if options.channel else "[mail] to, [command] run or a [[webhook]]"
        raise XenbwError("there is no channel to test", f"write {missing} into the configuration")
    return 0 if all(works) else 1


def _try(way: Way, told: Announcement, at: datetime, words: Templates) -> bool:
    """Send a sample and show the result. Whether the channel accepted it."""
    name = way.queue.shown
    message = Message(0, at, way.queue, told.subject, way.text(told), 0, told.kind, told.document)
    if message.channel is Channel.MAIL:
        message = words.worded(message)
    try:
        refused = way.carrier().send(message.subject, message.body, f"test.{at:%Y%m%d%H%M%S}", at)
    except DeliveryError as error:
        # The hint of a program names the journal, but here its output is on the terminal.
        is_program = way.outside and way.queue.channel is not Channel.WEBHOOK
        say(printable(f"{name}: FAILED: {error.message if is_program else error}"))
        return False
    say(printable(f"{name}: accepted"))
    for recipient, answer in refused.items():
        say(printable(f"{name}: FAILED for {recipient}: {answer}"))
    return not refused


COMMAND = Command(arguments, run)

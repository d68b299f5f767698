"""Put announcements into the queues of all channels, and keep each queue within its bound."""

from __future__ import annotations

from datetime import datetime

from xenbw.config import Settings
from xenbw.ledger import outbox
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.outbox import DROPPED, Channel, Queue
from xenbw.tell import carriers, message
from xenbw.tell.announcement import Announcement
from xenbw.tell.document import dropped
from xenbw.tell.gather import URGENT


def post(ledger: Ledger, settings: Settings, told: Announcement, at: datetime) -> bool:
    """Queue an announcement for each channel that carries it. Returns whether there is one. Raises LedgerError."""
    letters = carriers.addressed(settings, told)
    for queue, subject, body, facts in letters:
        outbox.queue(ledger, at, subject, body, *queue, kind=told.kind, facts=facts)
        lost, untold = outbox.keep_bound(ledger, queue, URGENT)
        if lost:
            text = f"{lost} messages that waited for {queue.shown} were dropped, because too many waited"
            ledger.record(at, DROPPED, text)
            # A tenant is not told: the event is for the admin.
            if queue.channel is not Channel.MAIL or not queue.address:
                _tell_of(untold, queue, ledger, settings, at)
    return bool(letters)


def _tell_of(lost: int, queue: Queue, ledger: Ledger, settings: Settings, at: datetime) -> None:
    """Queue the message that so many messages of this queue were dropped."""
    mail = message.dropped(queue.shown, lost, settings.host_name)
    facts = dropped(queue.shown, lost, settings.host_name, at, mail)
    body = mail[1] if queue.channel is Channel.MAIL else facts
    outbox.queue(ledger, at, mail[0], body, *queue, kind=DROPPED, facts=facts)

"""Which mails go alone and which together: pure functions of the messages that wait."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import NamedTuple

from xenbw.ledger.outbox import Message

# Up to so many messages within LONGEST go as mails of their own, and at once.
FEW = 5
# More of them wait until no new one came for PAUSE, but at most for LONGEST, and go as one mail.
PAUSE = timedelta(seconds=5)
LONGEST = timedelta(seconds=20)

# Kinds that are sent in quiet hours too and dropped last: blocks, and blocks without effect.
URGENT = ("null-routed", "unfiltered")

Parcel = tuple[Message, ...]
"""Messages that are delivered together; most parcels have one."""


class Gathered(NamedTuple):
    """parcels: what is delivered now. wait: for how many seconds other messages wait for more of them; 0: none do."""

    parcels: list[Parcel]
    wait: float = 0.0


def gather(messages: Sequence[Message], lately: int, now: datetime, few: int = FEW) -> Gathered:
    """The mails for these messages of one queue, the oldest message first. lately: how many messages of this queue were
    sent within LONGEST before now. few: up to how many go alone. Messages that were put together before stay so."""
    together = [message for message in messages if message.letter is not None]
    parcels = [tuple(group) for _, group in groupby(sorted(together, key=_place), key=lambda each: each.letter)]
    fresh = [message for message in messages if message.letter is None]
    wait = 0.0
    if len(fresh) + lately <= few:
        parcels += [(message,) for message in fresh]
    elif fresh:
        wait = _wait(fresh, now)
        parcels += [] if wait else [tuple(fresh)]
    return Gathered(sorted(parcels, key=lambda parcel: parcel[0].id), wait)


def _place(message: Message) -> tuple[int, int]:
    return message.letter or 0, message.id


def _wait(fresh: Sequence[Message], now: datetime) -> float:
    """For how many seconds more these messages wait; 0 if they were written before the clock was set back."""
    ages = [now - message.created_at for message in fresh]
    if min(ages) < timedelta():
        return 0.0
    return max(0.0, min(PAUSE - min(ages), LONGEST - max(ages)).total_seconds())

"""Which values of the ledger's history the book lacks: what was counted for VMs by five minutes, hour, day, month
and year.

The history has no revs. What changed is told by the rows beside it: usage by its hours, flood and refused bytes by
their bindings. A round pushes each VM that changed since the last round, for some seconds at a time, since allowances
are pulled in between. Reading a month means reading all shorter values in it: months and years are pushed once a day.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo

from xenbw.book import changes
from xenbw.book.changes import Changed
from xenbw.config import Settings
from xenbw.ledger import history
from xenbw.ledger.ledger import Ledger
from xenbw.model import Amounts, Span

# The values of one document: short ones are many, so a document has those of an hour or of a UTC day.
_TOGETHER = {Span.FIVE_MINUTES: Span.HOUR, Span.HOUR: Span.DAY}
# A daemon commits at the latest after 300 s ([ledger] commit), so some bytes from before a round come after it.
_LATE = timedelta(minutes=10)
_SECONDS = 2.0
_BATCH = 2000


@dataclass(frozen=True)
class Round:
    """Up to which rev the book has the history of these spans, and when that round began."""

    spans: tuple[Span, ...]
    rev: int
    at: datetime


_NEVER = datetime.fromtimestamp(0, UTC)
ROUNDS = {
    "history": Round((Span.FIVE_MINUTES, Span.HOUR, Span.DAY), 0, _NEVER),
    "months": Round((Span.MONTH, Span.YEAR), 0, _NEVER),
}


@dataclass(frozen=True)
class Piece:
    """The values of a VM that one document of the book has, (start, amounts), oldest first.

    start: when the hour or day of these values begins, or the one day, month or year. expires_at: None: never.
    """

    vm: Changed
    span: Span
    start: datetime
    values: tuple[tuple[datetime, Amounts], ...]
    expires_at: datetime | None


Write = Callable[[int, Sequence[Piece]], None]
"""write(rev, pieces): the pieces as they were at that rev."""


class Past:
    """Pushes the history of one host's VMs."""

    def __init__(self, settings: Settings) -> None:
        self._zone, self._keep = settings.period.timezone, settings.ledger.keep_spans
        # The rounds that are under way: the round before, the round, and the VMs that are left.
        self._open: dict[str, tuple[Round, Round, list[Changed]]] = {}

    def push(self, ledger: Ledger, name: str, last: Round, now: datetime, write: Write) -> Round | None:
        """Begin a round if it is due, or go on with it for some seconds. Returns it once all is written, else None.
        Raises LedgerError, and whatever `write` raises; then the VM is pushed again."""
        before, this, left = self._open.get(name, (None, last, []))
        # After a resync a round that is under way begins anew.
        if before != last:
            if not _due(last, now, self._zone):
                return None
            this, left = replace(last, rev=ledger.meta("rev"), at=now), changes.changed(ledger, last.rev)
            self._open[name] = last, this, left
        until = time.monotonic() + _SECONDS
        while left and time.monotonic() < until:
            found = list(pieces(ledger, left[-1], last, this, self._keep, self._zone))
            for at in range(0, len(found), _BATCH):
                write(this.rev, found[at : at + _BATCH])
            left.pop()
        if left:
            return None
        del self._open[name]
        return this


def _due(last: Round, now: datetime, zone: tzinfo) -> bool:
    every = Span.FIVE_MINUTES if Span.FIVE_MINUTES in last.spans else Span.DAY
    return history.begin_of(every, last.at, zone) != history.begin_of(every, now, zone)


def pieces(
    ledger: Ledger, vm: Changed, last: Round, this: Round, keep: Mapping[Span, timedelta | None], zone: tzinfo
) -> Iterator[Piece]:
    """What the book may lack of a VM's history since the last round. A piece has no values if its usage was moved.
    Raises LedgerError."""
    hours = changes.hours_after(ledger, vm.id, last.rev) if last.rev else []
    # The clock may have been set back since the last round.
    began = min(last.at, this.at) - _LATE if last.rev else changes.first_of_history(ledger, vm.id)
    if began is None:
        return
    since, until = min([began, *hours]), max([this.at, *hours]) + timedelta(days=1)
    for span in this.spans:
        found: dict[datetime, list[tuple[datetime, Amounts]]] = {_begin(span, hour, zone): [] for hour in hours}
        for start, amounts in history.values(ledger, vm.id, span, _begin(span, since, zone), until, zone):
            found.setdefault(_begin(span, start, zone), []).append((start.astimezone(UTC), amounts))
        for begin, values in found.items():
            yield Piece(vm, span, begin.astimezone(UTC), tuple(values), _expires_at(span, begin, keep[span]))


def _begin(span: Span, moment: datetime, zone: tzinfo) -> datetime:
    together = _TOGETHER.get(span)
    return history.begin_of(together or span, moment, UTC if together else zone)


def _expires_at(span: Span, begin: datetime, keep: timedelta | None) -> datetime | None:
    return None if keep is None else begin.astimezone(UTC) + timedelta(seconds=_TOGETHER.get(span, span)) + keep

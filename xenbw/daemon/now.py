"""The daemon's present moment: the clocks, corrected by the ledger's timeline."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from xenbw.accounting import Tally
from xenbw.clock import Clock, Moment, Tick, Timeline, Trust, set_by
from xenbw.tell import news
from xenbw.tell.journal import about

log = logging.getLogger(__name__)


class Now:
    """The moment of the last look at the clocks. wait: seconds that a doubted clock has to run evenly."""

    def __init__(self, clock: Clock, timeline: Timeline, tally: Tally, wait: float) -> None:
        self._clock, self._timeline, self._tally, self.wait = clock, timeline, tally, wait
        self.tick = clock.tick()
        self.moment = timeline.moment(self.tick)

    @property
    def trust(self) -> Trust:
        return self._timeline.trust

    @property
    def booted_at(self) -> datetime:
        """When this host booted, by the present clock."""
        return self.moment.at - timedelta(seconds=self.tick.elapsed)

    def look(self) -> Moment:
        """Look at the clocks."""
        before, earlier = self.moment, self.tick
        self.tick = self._clock.tick()
        self.moment = self._timeline.moment(self.tick)
        self.go_on_from(before.at, earlier)
        if self.moment.trusted != before.trusted:
            log.log(*news.of_trust(self.trust, self.wait), extra=about("clock"))
        return self.moment

    def go_on_from(self, before: datetime, earlier: Tick) -> None:
        """Make the tally use the seconds that really passed since its last reading, even if the clock was set since
        then. before, earlier: that reading's moment and tick."""
        self._tally.booted_at = self.booted_at
        shift = set_by(before, earlier, self.moment.at, self.tick)
        if shift:
            self._tally.shift(shift)

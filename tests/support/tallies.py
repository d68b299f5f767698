"""Bindings, periods and tallies for tests of the accounting."""

from __future__ import annotations

from datetime import datetime, timedelta

from tests.support.clock import utc
from xenbw.accounting import Tally
from xenbw.model import ZERO, Binding, Counters, Kind, Period, Reading

NOON = utc("2026-03-10 12:00")
SECOND = timedelta(seconds=1)


def monthly(moment: datetime) -> Period:
    """Periods that begin at 18:30 UTC on the last day of the month before, as in Kolkata."""
    shifted = moment + timedelta(hours=5, minutes=30)
    start = shifted.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (start + timedelta(days=32)).replace(day=1)
    return Period(start - timedelta(hours=5, minutes=30), following - timedelta(hours=5, minutes=30))


def for_every_vm(_vm_id: int, moment: datetime) -> Period:
    return monthly(moment)


def binding(number: int = 1, **facts: object) -> Binding:
    known = {"vm_id": 1, "boot_id": "b", "domid": number, "devid": 0, "kind": Kind.VIF, "ifindex": number}
    known |= {"interface": f"vif{number}.0", "started_at": NOON, "last_at": NOON, **facts}
    return Binding(id=number, **known)  # type: ignore[arg-type]  # test shorthand


def counted(tally: Tally, until: datetime) -> dict[datetime, int]:
    """Hour -> bytes, for a reading of 7200 bytes at `until`."""
    one = binding(1)
    tally.credit({one.id: Reading(Counters(7200, 0))}, until, lambda _, moment: monthly(moment))
    return {share.hour: share.in_bytes for _, share in tally.pending().shares}


def following(*bindings: Binding, since: datetime = NOON) -> Tally:
    tally = Tally()
    for one in bindings:
        tally.follow(one, since)
    tally.open_period(1, monthly(since).start, ZERO)
    return tally

"""What the book says of all hosts together."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo.errors import PyMongoError

from xenbw.model import Counters
from xenbw.store.book import Book, BookError

# No period is longer: a month of 31 days, and the hour that daylight saving gives back.
_LONGEST_PERIOD = timedelta(days=31, hours=1)


@dataclass(frozen=True)
class HostSeen:
    """A host as it last wrote of itself. backlog: records that the book then lacked."""

    name: str
    seen_at: datetime | None
    backlog: int | None
    version: str | None


@dataclass(frozen=True)
class FleetUsage:
    """A VM's usage in its present period: in all, and by the name of the host where it passed."""

    name: str
    period_start: datetime
    usage: Counters
    hosts: dict[str, Counters]


class Fleet(Book):
    """The book, to be read."""

    def hosts(self) -> list[HostSeen]:
        """Every host that ever wrote to the book, by name. Raises BookError."""
        try:
            found = list(self._database.hosts.find().sort("_id"))
        except PyMongoError as error:
            raise self._failed(error) from None
        return [
            HostSeen(
                str(row["_id"]),
                _of(row.get("seen_at"), datetime),
                _of(row.get("backlog"), int),
                _of(row.get("version"), str),
            )
            for row in found
        ]

    def usage(self, now: datetime) -> list[FleetUsage]:
        """The VMs that were used in their present period, the largest first. Raises BookError.

        A VM's present period is the latest that any host has usage of; one that can be over by now does not count.
        """
        wanted = {
            "span": "period",
            "start": {"$gt": now - _LONGEST_PERIOD},
            "removed_at": None,
            # What was filed under another period leaves zeros behind.
            "$or": [{"in_bytes": {"$gt": 0}}, {"out_bytes": {"$gt": 0}}],
        }
        sums = {"in_bytes": {"$sum": "$in_bytes"}, "out_bytes": {"$sum": "$out_bytes"}}
        each = {"host": "$_id.host", "in_bytes": "$in_bytes", "out_bytes": "$out_bytes"}
        pipeline: list[dict[str, Any]] = [
            {"$match": wanted},
            {"$group": {"_id": {"vm": "$vm", "start": "$start", "host": "$host"}, **sums}},
            {"$group": {"_id": {"vm": "$_id.vm", "start": "$_id.start"}, "hosts": {"$push": each}}},
            {"$sort": {"_id.start": -1}},
            {"$group": {"_id": "$_id.vm", "start": {"$first": "$_id.start"}, "hosts": {"$first": "$hosts"}}},
        ]
        try:
            found = [_usage(row) for row in self._database.usage.aggregate(pipeline, allowDiskUse=True)]
        except PyMongoError as error:
            raise self._failed(error) from None
        return sorted(found, key=lambda vm: (-sum(vm.usage), vm.name))

    def _failed(self, error: PyMongoError) -> BookError:
        return BookError(super()._failed(error).message, "see [mongodb] in the configuration, and the server's log")


def _usage(row: dict[str, Any]) -> FleetUsage:
    hosts = {str(part["host"]): Counters(part["in_bytes"], part["out_bytes"]) for part in row["hosts"]}
    total = Counters(sum(part.in_bytes for part in hosts.values()), sum(part.out_bytes for part in hosts.values()))
    return FleetUsage(str(row["_id"]), row["start"], total, dict(sorted(hosts.items())))


def _of(value: Any, kind: type[Any]) -> Any:
    """The value where it is what it should be: anyone with a login can have written it."""
    return value if isinstance(value, kind) else None

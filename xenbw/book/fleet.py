"""The book's hosts, and the usage of VMs on all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from xenbw.book import foreign
from xenbw.book.book import Book, BookError
from xenbw.model import Counters, State

# No period is longer: a month of 31 days, and the hour that daylight saving gives back.
_LONGEST_PERIOD = timedelta(days=31, hours=1)
_STATES = frozenset(state.value for state in State)


@dataclass(frozen=True)
class HostSeen:
    """A host's own document, as it last wrote it. backlog: records that the book lacked then. states: of its VMs, by
    name, without those that are neither past a limit nor near it."""

    name: str
    seen_at: datetime | None
    backlog: int | None
    version: str | None
    states: Mapping[str, State] = field(default_factory=dict)


@dataclass(frozen=True)
class FleetUsage:
    """A VM's usage in its present period: the sum, and each host's part by the host's name."""

    name: str
    period_start: datetime
    usage: Counters
    hosts: dict[str, Counters]


def hosts(book: Book) -> list[HostSeen]:
    """Every host that ever wrote to the book, by name. Raises BookError."""
    known = {"seen_at": foreign.date("seen_at"), "backlog": foreign.whole("backlog")}
    fields = {"_id": foreign.label(), **known, "version": foreign.text("version"), "states": foreign.states()}
    rows = _read(book, "hosts", [{"$sort": {"_id": 1}}, {"$project": fields}])
    return [
        HostSeen(row["_id"], row["seen_at"], row["backlog"], row["version"], _states(row["states"])) for row in rows
    ]


def _states(listed: list[dict[str, Any]]) -> dict[str, State]:
    return {one["vm"]: State(one["state"]) for one in listed if one["vm"] is not None and one["state"] in _STATES}


def states(vm: FleetUsage, hosts: Iterable[HostSeen]) -> dict[str, State]:
    """The VM's state on each host that wrote one in its present period, by the host's name."""
    return {
        host.name: host.states[vm.name]
        for host in hosts
        if vm.name in host.states and host.seen_at is not None and host.seen_at >= vm.period_start
    }


def usage(book: Book, now: datetime) -> list[FleetUsage]:
    """The VMs that used something in their present period, the largest usage first. Raises BookError.

    A VM's present period is the latest one that any host has usage of. A period that can be over by now does not count,
    nor do more bytes than a host can have passed.
    """
    each = {"host": "$_id.host", "in_bytes": "$in_bytes", "out_bytes": "$out_bytes"}
    pipeline: list[dict[str, Any]] = [
        *foreign.by_host(_present(now), now),
        # Usage that was filed under another period leaves zeros behind.
        {"$match": {"$or": [{"in_bytes": {"$gt": 0}}, {"out_bytes": {"$gt": 0}}], "$nor": [_too_much(now)]}},
        {"$group": {"_id": {"vm": "$_id.vm", "start": "$_id.start"}, "hosts": {"$push": each}}},
        {"$sort": {"_id.start": -1}},
        {"$group": {"_id": "$_id.vm", "start": {"$first": "$_id.start"}, "hosts": {"$first": "$hosts"}}},
    ]
    found = [_usage(row) for row in _read(book, "usage", pipeline)]
    return sorted(found, key=lambda vm: (-sum(vm.usage), vm.name))


def left_out(book: Book, now: datetime) -> list[str]:
    """Which usage of present periods is not believed: a sentence for each document, for the admin. Raises BookError."""
    wanted = _present(now)
    unbelieved = [*foreign.by_host(wanted, now), {"$match": _too_much(now)}, {"$limit": foreign.NAMED}]
    return [
        *foreign.named(_read(book, "usage", foreign.left_out(wanted, now))),
        *(foreign.unbelieved(row["_id"]["vm"], row["_id"]["host"], row) for row in _read(book, "usage", unbelieved)),
    ]


def _read(book: Book, collection: str, pipeline: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        return book.aggregate(collection, pipeline)
    except BookError as error:
        raise BookError(error.message, "see [mongodb] in the configuration, and the server's log") from None


def _present(now: datetime) -> dict[str, Any]:
    return {"span": "period", "start": {"$gt": now - _LONGEST_PERIOD}, "removed_at": None}


def _too_much(now: datetime) -> dict[str, Any]:
    beyond = {"$gt": foreign.most(now - _LONGEST_PERIOD, now)}
    return {"$or": [{"in_bytes": beyond}, {"out_bytes": beyond}]}


def _usage(row: dict[str, Any]) -> FleetUsage:
    hosts = {part["host"]: Counters(part["in_bytes"], part["out_bytes"]) for part in row["hosts"]}
    total = Counters(sum(part.in_bytes for part in hosts.values()), sum(part.out_bytes for part in hosts.values()))
    return FleetUsage(row["_id"], row["start"], total, dict(sorted(hosts.items())))

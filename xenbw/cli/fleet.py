"""xenbw fleet: all hosts and VMs of the book."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from xenbw.cli.command import Command, Context
from xenbw.cli.terminal import say, warn
from xenbw.config import Settings
from xenbw.errors import UsageError
from xenbw.model import State
from xenbw.report.document import Document, dump
from xenbw.report.table import Column, local_time, render
from xenbw.units import format_size, format_time

if TYPE_CHECKING:
    from xenbw.book.fleet import FleetUsage, HostSeen

    _VM = tuple[FleetUsage, Mapping[str, State]]  # with its state on each host that has one

_HOSTS = (Column("HOST"), Column("SEEN"), Column("LAG", right=True), Column("BACKLOG", right=True), Column("VERSION"))
_VMS = (
    Column("VM"),
    Column("IN", right=True),
    Column("OUT", right=True),
    Column("TOTAL", right=True),
    Column("PERIOD BEGAN"),
    Column("HOST(S)"),
)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(options: Namespace, context: Context) -> int:
    require_book(context.settings)
    # Importing pymongo takes 28 MB and a tenth of a second, so only this command does.
    from xenbw.book import fleet
    from xenbw.book.book import Book

    now = context.clock.tick().wall
    with closing(Book(context.settings)) as book:
        hosts, left_out = fleet.hosts(book), fleet.left_out(book, now)
        vms = [(vm, fleet.states(vm, hosts)) for vm in fleet.usage(book, now)]
    for fault in left_out:
        warn(f"! {fault}")
    say(dump(_document(hosts, vms, left_out, now)) if options.json else _text(hosts, vms, now, context.settings))
    return 0


def require_book(settings: Settings) -> None:
    """Raise UsageError if no book is configured."""
    if not settings.mongodb.uri:
        raise UsageError("there is no book", "set [mongodb] uri in the configuration first")


def _lag(host: HostSeen, now: datetime) -> int | None:
    """Seconds since the host last wrote. Its clock may be ahead of ours."""
    return None if host.seen_at is None else max(0, round((now - host.seen_at).total_seconds()))


def _places(used: Iterable[str], states: Mapping[str, State]) -> Iterator[str]:
    """The hosts on which a VM used something or has a state, each with that state."""
    for host in sorted({*used, *states}):
        yield f"{host} ({states[host]})" if host in states else host


def _text(hosts: Sequence[HostSeen], vms: Sequence[_VM], now: datetime, settings: Settings) -> str:
    if not hosts:
        return "no host has written to the book yet"
    zone = settings.period.timezone
    lines = [
        (
            host.name,
            "never" if host.seen_at is None else local_time(host.seen_at, zone),
            "-" if lag is None else str(timedelta(seconds=lag)),
            "-" if host.backlog is None else f"{host.backlog:,}",
            host.version or "-",
        )
        for host in hosts
        for lag in (_lag(host, now),)
    ]
    tables = [render(_HOSTS, lines)]
    if vms:
        used = [
            (
                vm.name,
                *(format_size(size) for size in (*vm.usage, sum(vm.usage))),
                local_time(vm.period_start, zone),
                ", ".join(_places(vm.hosts, states)),
            )
            for vm, states in vms
        ]
        tables += ["", render(_VMS, used)]
    return "\n".join(tables)


def _document(hosts: Sequence[HostSeen], vms: Sequence[_VM], left_out: Sequence[str], now: datetime) -> Document:
    return {
        "generated_at": format_time(now),
        "hosts": [
            {
                "name": host.name,
                "seen_at": host.seen_at and format_time(host.seen_at),
                "lag_seconds": _lag(host, now),
                "backlog": host.backlog,
                "version": host.version,
                "states": dict(Counter(state.value for state in host.states.values())),
            }
            for host in hosts
        ],
        "vms": [
            {
                "name": vm.name,
                "period_start": format_time(vm.period_start),
                "in_bytes": vm.usage.in_bytes,
                "out_bytes": vm.usage.out_bytes,
                "total_bytes": sum(vm.usage),
                "hosts": [{"name": name, **part._asdict()} for name, part in vm.hosts.items()],
                "states": {host: state.value for host, state in states.items()},
            }
            for vm, states in vms
        ],
        "left_out": list(left_out),
    }


COMMAND = Command(arguments, run)

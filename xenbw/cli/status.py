"""xenbw status: show whether everything works, and which problems there are."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from xenbw.blocks import null_text, restore
from xenbw.cli.accounts import accounts, roster
from xenbw.cli.command import Command, Context
from xenbw.cli.routes import null_routes
from xenbw.cli.terminal import say
from xenbw.doctor import last
from xenbw.doctor.finding import Level
from xenbw.doctor.last import Last
from xenbw.errors import XenbwError
from xenbw.ledger import eventlog, outbox
from xenbw.ledger.outbox import Channel, Waiting
from xenbw.model import Address
from xenbw.report.document import Document, dump
from xenbw.report.table import facts, local_time
from xenbw.rundir import control
from xenbw.rundir.control import Answer
from xenbw.text import printable
from xenbw.units import format_size, format_time

_EVENTS = 5


@dataclass(frozen=True)
class _Books:
    """What the ledger says; empty if it cannot be read."""

    states: Mapping[str, int] = field(default_factory=dict)
    unmetered: Mapping[str, str] = field(default_factory=dict)  # VM's name -> why its traffic is not metered
    null_routes: Mapping[Address, str] = field(default_factory=dict)
    method: str | None = None  # by what addresses were last null-routed
    waiting: Mapping[Channel, Waiting] = field(default_factory=lambda: dict.fromkeys(Channel, Waiting()))
    events: list[tuple[datetime, str, str]] = field(default_factory=list)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(options: Namespace, context: Context) -> int:
    problems: list[str] = []
    daemon: Answer | None = None
    try:
        daemon = control.ask(context.settings.daemon.run_dir, "status")
        problems += daemon.get("problems", [])
    except XenbwError as error:
        problems.append(f"{error.message}: nothing is metered ({error.hint})")
    books, works = _Books(), daemon is not None
    try:
        books = _read(context)
    except XenbwError as error:
        problems.append(str(error))
        works = False
    if options.json:
        say(dump(_document(daemon, books, problems, context)))
    else:
        say(_text(daemon, books, problems, context))
    return 0 if works else 1


def _read(context: Context) -> _Books:
    with context.ledger() as ledger:
        vms = roster(ledger, context)
        found = list(accounts(ledger, vms).values())
        states = Counter(account.standing.state.value for account in found)
        unmetered = {account.vm.name: account.standing.reason for account in found if account.unmetered}
        routes, waiting = null_routes(ledger, vms, context), outbox.waiting_by_channel(ledger)
        method = ledger.meta("null_routes")
        return _Books(states, unmetered, routes, method, waiting, eventlog.newest(ledger, _EVENTS))


def _size(path: Path) -> int | None:
    """The size of the ledger in bytes, with SQLite's write-ahead log; None if there is no ledger."""
    files = [file for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]
    return sum(file.stat().st_size for file in files) if files else None


def _document(daemon: Answer | None, books: _Books, problems: list[str], context: Context) -> Document:
    path = context.settings.ledger.path
    return {
        "host": context.settings.host_name,
        "generated_at": format_time(context.clock.tick().wall),
        "daemon": daemon,
        "ledger": {"path": str(path), "size_bytes": _size(path)},
        "states": dict(books.states),
        "unmetered": dict(books.unmetered),
        "null_routes": {str(address): name for address, name in books.null_routes.items()},
        "mails_waiting": books.waiting[Channel.MAIL].count,
        "commands_waiting": books.waiting[Channel.COMMAND].count,
        "webhooks_waiting": books.waiting[Channel.WEBHOOK].count,
        "delivery_failures": {
            channel.value: waiting.failure for channel, waiting in books.waiting.items() if waiting.failure
        },
        "problems": problems,
        "events": [{"at": format_time(at), "kind": kind, "text": text} for at, kind, text in books.events],
        "doctor": _doctor(last.read(context.settings.daemon.run_dir)),
    }


def _doctor(told: Last | None) -> Document | None:
    """The time and the counts of doctor's last examination."""
    if told is None:
        return None
    return {"at": format_time(told.at), "fail": told.counts[Level.FAIL], "warn": told.counts[Level.WARN]}


def _text(daemon: Answer | None, books: _Books, problems: list[str], context: Context) -> str:
    path, zone = context.settings.ledger.path, context.settings.period.timezone
    size = _size(path)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(books.states.items()))
    total = sum(books.states.values())
    lines = [f"! {printable(problem)}" for problem in problems]
    lines.append(
        facts(
            [
                ("xenbwd", _alive(daemon)),
                *((("meter", _meter(daemon)),) if daemon else ()),
                ("ledger", f"{path}, {'missing' if size is None else format_size(size)}"),
                *((("allowances", _held(daemon)),) if daemon else ()),
                *((("book", daemon["book"]["summary"]),) if daemon and "book" in daemon else ()),
                ("VMs", f"{total}: {counts}" if total else "none"),
                *(("unmetered", f"{name}: {why}") for name, why in books.unmetered.items()),
                ("null routes", str(len(books.null_routes)) + _shown_by(books)),
                *(("", f"{address} {name}") for address, name in books.null_routes.items()),
                *((("floods", ", ".join(daemon["floods"])),) if daemon and daemon.get("floods") else ()),
                *_waiting(books.waiting, context),
                *_checked(last.read(context.settings.daemon.run_dir), context),
            ]
        )
    )
    if books.events:
        events = (f"{local_time(at, zone)}  {text}" for at, _, text in books.events)
        lines += ["", "newest events", *(f"  {printable(event)}" for event in events)]
    return "\n".join(lines)


def _waiting(waiting: Mapping[Channel, Waiting], context: Context) -> list[tuple[str, str]]:
    """The numbers of undelivered messages. Those of commands and webhooks are left out if they are 0 and none is
    configured."""
    lines, settings = [], context.settings
    for channel, label, wanted in (
        (Channel.MAIL, "mails waiting", True),
        (Channel.COMMAND, "commands waiting", bool(settings.command.run)),
        (Channel.WEBHOOK, "webhooks waiting", bool(settings.webhook)),
    ):
        found = waiting[channel]
        if found.count or wanted:
            why = f": {printable(found.failure)}" if found.failure else ""
            lines.append((label, f"{found.count}{why}"))
    return lines


def _shown_by(books: _Books) -> str:
    """The commands that show the null routes in the kernel."""
    if not books.null_routes or books.method is None:
        return ""
    if books.method == null_text.METHOD:
        return f" ({null_text.SHOW})"
    versions = sorted({address.version for address in books.null_routes})
    return f" ({', '.join(restore.SHOW[version] for version in versions)})"


def _checked(told: Last | None, context: Context) -> list[tuple[str, str]]:
    """The result of doctor's last examination; nothing if there was none."""
    if told is None:
        return []
    found = f"{told.counts[Level.FAIL]} FAIL, {told.counts[Level.WARN]} WARN"
    return [("doctor", f"{local_time(told.at, context.settings.period.timezone)}: {found}")]


def _meter(daemon: Answer) -> str:
    """The meter in use, why it is not the best one, and how often the kernel's counters had to replace nft's."""
    reason, gaps = daemon.get("meter_reason"), daemon.get("meter_gaps")
    text = str(daemon.get("meter")) + (f": {reason}" if reason else "")
    return text + (f"; its counters were lost {gaps} times, and the kernel's used instead" if gaps else "")


def _held(daemon: Answer) -> str:
    """Who holds the VMs' allowances."""
    if daemon.get("meter") != "nft":
        return "held by xenbwd alone: tripwires in the kernel need the meter nft"
    return f"{daemon.get('tripwires', 0)} VMs held by the kernel, to the frame"


def _alive(daemon: Answer | None) -> str:
    if daemon is None:
        return "NOT RUNNING"
    told = (
        ("version", "version"),
        ("since", "started_at"),
        ("last commit", "last_commit"),
        ("vifs whose VM is not known yet", "pending_vifs"),
    )
    parts = ["running", *(f"{label} {daemon[key]}" for label, key in told if daemon.get(key))]
    if daemon.get("clock_trusted") is False:
        parts.append("the clock is not trusted yet")
    return ", ".join(parts)


COMMAND = Command(arguments, run)

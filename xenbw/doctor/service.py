"""The daemon, and where it keeps what it counts: the ledger, and the book where there is one."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from xenbw import __version__
from xenbw.config import Settings
from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.host import Host
from xenbw.errors import XenbwError
from xenbw.ledger import check
from xenbw.ledger.ledger import Ledger
from xenbw.rundir.control import Answer
from xenbw.units import format_size

if TYPE_CHECKING:
    from datetime import datetime

    from xenbw.book.fleet import HostSeen

# Seconds to look for damage: a quick_check reads some 500 MB a second.
_CHECKING = 5.0
_WAITING = 5.0
# A thousand VMs fill some 150 MB in a month.
_LITTLE, _TOO_LITTLE = 500_000_000, 20_000_000
_BEHIND = timedelta(minutes=10)


def daemon(host: Host) -> Iterator[Finding]:
    """Whether xenbwd runs, with which meter, and what it complains of."""
    try:
        answer = host.daemon
    except XenbwError as error:
        yield bad("daemon", f"{error.message}: nothing is metered", error.hint or "systemctl start xenbwd")
        return
    yield from judge_daemon(answer)


def judge_daemon(answer: Answer) -> Iterator[Finding]:
    yield good("daemon", f"xenbwd runs since {answer.get('started_at')}")
    if answer.get("version") != __version__:
        said = f"xenbwd is of version {answer.get('version')}, this is {__version__}"
        yield doubt("daemon", said, "systemctl restart xenbwd")
    if reason := answer.get("meter_reason"):
        fix = "see docs/metering.md: only nft counts to the last byte and seals"
        yield doubt("meter", f"the {answer.get('meter')} meter stands in: {reason}", fix)
    else:
        yield good("meter", f"{answer.get('meter')}")
    for problem in answer.get("problems", ()):
        yield doubt("daemon", str(problem), "xenbw status tells whether it lasts")


@dataclass(frozen=True)
class LedgerFacts:
    """free_bytes: on its file system."""

    path: Path
    size_bytes: int
    free_bytes: int


def ledger(host: Host) -> Iterator[Finding]:
    """Whether the ledger is sound, and has room to grow."""
    path = host.settings.ledger.path
    opened = Ledger.open(path)
    try:
        check.check(opened, _CHECKING)
    finally:
        opened.close()
    files = [file for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()]
    size = sum(file.stat().st_size for file in files)
    yield judge_ledger(LedgerFacts(path, size, shutil.disk_usage(path.parent).free))


def judge_ledger(facts: LedgerFacts) -> Finding:
    said = f"{facts.path} is sound: {format_size(facts.size_bytes)}, {format_size(facts.free_bytes)} free beside it"
    # An upgrade copies it first.
    fix = f"free some space on the file system of {facts.path.parent}, or lower keep_history"
    if facts.free_bytes < _TOO_LITTLE:
        return bad("ledger", said, fix)
    if facts.free_bytes < max(_LITTLE, facts.size_bytes):
        return doubt("ledger", said, fix)
    return good("ledger", said)


def book(host: Host) -> Iterator[Finding]:
    """Whether the book is reached within 5 s, and how far behind it is."""
    if host.settings.mongodb.uri:
        asked = _Asked(host.settings)
        asked.start()
        asked.join(_WAITING)
        yield judge_book(asked.seen, asked.problem, host.settings.host_name, host.clock.tick().wall)


class _Asked(threading.Thread):
    """The book, asked for its hosts. pymongo's own limits add up to more than anybody waits."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="book", daemon=True)
        self._settings = settings
        self.seen: list[HostSeen] | None = None
        self.problem = XenbwError(f"the book: no answer within {_WAITING:g} s", "see [mongodb], and the server's log")

    def run(self) -> None:
        # pymongo is 28 MB and a tenth of a second: only for who needs it.
        from xenbw.book import fleet
        from xenbw.book.book import Book

        try:
            with closing(Book(self._settings)) as book:
                self.seen = fleet.hosts(book)
        except XenbwError as error:
            self.problem = error


def judge_book(seen: list[HostSeen] | None, problem: XenbwError, name: str, now: datetime) -> Finding:
    """seen: the hosts in the book, None where it could not be asked, for that problem."""
    if seen is None:
        return bad("book", problem.message, problem.hint or "see [mongodb] in the configuration, and the server's log")
    own = next((host for host in seen if host.name == name), None)
    if own is None or own.seen_at is None:
        return doubt("book", f"reached, but {name} has never written to it", "systemctl status xenbwd says why")
    behind = now - own.seen_at
    ago = max(0, round(behind.total_seconds()))
    said = f"reached; {name} wrote to it {ago} s ago and had {own.backlog or 0:,} records to go"
    if behind > _BEHIND:
        return doubt("book", said, "systemctl status xenbwd says why")
    return good("book", said)

"""Check the daemon, the ledger, and the book if there is one."""

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

# Seconds to look for damage: a quick_check reads about 500 MB a second.
_CHECKING = 5.0
_WAITING = 5.0
# A thousand VMs fill about 150 MB in a month.
_LITTLE, _TOO_LITTLE = 500_000_000, 20_000_000
_BEHIND = timedelta(minutes=10)


def daemon(host: Host) -> Iterator[Finding]:
    """Whether xenbwd runs, with which meter, and which problems it reports."""
    try:
        answer = host.daemon
    except XenbwError as error:
        yield bad("daemon", f"{error.message}: nothing is metered", error.hint or "systemctl start xenbwd")
        return
    yield from judge_daemon(answer)


def judge_daemon(answer: Answer) -> Iterator[Finding]:
    yield good("daemon", f"xenbwd has been running since {answer.get('started_at')}")
    if answer.get("version") != __version__:
        text = f"xenbwd has version {answer.get('version')}, this program has {__version__}"
        yield doubt("daemon", text, "systemctl restart xenbwd")
    if reason := answer.get("meter_reason"):
        fix = "see docs/metering.md: only nft counts to the last byte and seals"
        yield doubt("meter", f"the {answer.get('meter')} meter is used instead of nft: {reason}", fix)
    else:
        yield good("meter", f"{answer.get('meter')}")
    for problem in answer.get("problems", ()):
        yield doubt("daemon", str(problem), "xenbw status shows whether it lasts")


@dataclass(frozen=True)
class LedgerFacts:
    """free_bytes: the free space on the ledger's file system."""

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
    size, free = format_size(facts.size_bytes), format_size(facts.free_bytes)
    text = f"{facts.path} is sound: {size}, {free} free on its file system"
    fix = f"free some space on the file system of {facts.path.parent}, or lower keep_history"
    if facts.free_bytes < _TOO_LITTLE:
        return bad("ledger", text, fix)
    # An upgrade copies the ledger, so as much space again must be free.
    if facts.free_bytes < max(_LITTLE, facts.size_bytes):
        return doubt("ledger", text, fix)
    return good("ledger", text)


def book(host: Host) -> Iterator[Finding]:
    """Whether the book answers within 5 s, and how far behind this host is."""
    if host.settings.mongodb.uri:
        asked = _Asked(host.settings)
        asked.start()
        asked.join(_WAITING)
        yield judge_book(asked.seen, asked.problem, host.settings.host_name, host.clock.tick().wall)


class _Asked(threading.Thread):
    """Asks the book for its hosts, in a thread because pymongo's own time limits add up to too long a wait."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="book", daemon=True)
        self._settings = settings
        self.seen: list[HostSeen] | None = None
        self.problem = XenbwError(f"the book: no answer within {_WAITING:g} s", "see [mongodb], and the server's log")

    def run(self) -> None:
        # Import pymongo only here: it takes 28 MB and a tenth of a second.
        from xenbw.book import fleet
        from xenbw.book.book import Book

        try:
            with closing(Book(self._settings)) as book:
                self.seen = fleet.hosts(book)
        except XenbwError as error:
            self.problem = error


def judge_book(seen: list[HostSeen] | None, problem: XenbwError, name: str, now: datetime) -> Finding:
    """seen: the hosts in the book, or None if asking it failed with `problem`."""
    if seen is None:
        return bad("book", problem.message, problem.hint or "see [mongodb] in the configuration, and the server's log")
    own = next((host for host in seen if host.name == name), None)
    if own is None or own.seen_at is None:
        return doubt("book", f"it answers, but {name} has never written to it", "systemctl status xenbwd says why")
    behind = now - own.seen_at
    ago = max(0, round(behind.total_seconds()))
    text = f"it answers; {name} wrote to it {ago} s ago and then had {own.backlog or 0:,} more records to push"
    if behind > _BEHIND:
        return doubt("book", text, "systemctl status xenbwd says why")
    return good("book", text)

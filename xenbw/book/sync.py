"""The thread that pushes the ledger to the book, however long the book is away. Nothing else waits for it."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import secrets
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xenbw import __version__
from xenbw.book import changes, driver, past
from xenbw.book.past import Past, Round
from xenbw.book.pull import pull
from xenbw.clock import Clock
from xenbw.config import Settings
from xenbw.errors import XenbwError
from xenbw.ledger import shared
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.units import format_time

if TYPE_CHECKING:
    from xenbw.book.book import Book

log = logging.getLogger(__name__)

_CHUNK = 2000
_LONGEST_PAUSE = 120.0
_LOCK_PATIENCE = 1.0


def marks_path(settings: Settings) -> Path:
    """The file with the marks. Without it, everything in the ledger is pushed again."""
    return settings.ledger.path.with_name(f"{settings.ledger.path.name}.book")


class ResyncError(Exception):
    """An admin has removed the file with the marks, so that everything is pushed again."""


class Marks:
    """Up to which rev the book has each table of the ledger, for one ledger and one book. They are in a file beside the
    ledger: in it, each push would look like a change by another process to the daemon."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        section = settings.mongodb
        book = hashlib.sha256(f"{section.uri} {section.database} {settings.host_name}".encode()).hexdigest()
        self._path, self._of = marks_path(settings), {"ledger": ledger.meta("id"), "book": book}
        self.done = dict.fromkeys(changes.TABLES, 0)
        self.rounds = dict(past.ROUNDS)
        self._on_disk = False
        try:
            text = self._path.read_text(encoding="ascii")
            self._on_disk = True
            kept = json.loads(text)
            if kept["of"] == self._of:
                self.done |= {table: int(kept["done"].get(table, 0)) for table in changes.TABLES}
                self.rounds |= {name: self._round(name, *kept["rounds"][name]) for name in past.ROUNDS}
        except (OSError, ValueError, KeyError, TypeError):
            return  # no marks, or a torn file: pushing a row twice changes nothing

    def _round(self, name: str, rev: int, seconds: int) -> Round:
        return Round(past.ROUNDS[name].spans, int(rev), datetime.fromtimestamp(int(seconds), UTC))

    def are_beyond(self, rev: int) -> bool:
        """Whether the book has had later changes of this ledger than there are."""
        return max(*self.done.values(), *(one.rev for one in self.rounds.values())) > rev

    def move(self, table: str, upto: int) -> None:
        """The book has acknowledged a table up to that rev. Raises OSError, ResyncError."""
        self.done[table] = upto
        self._write()

    def finish(self, name: str, this: Round) -> None:
        """The book has acknowledged a round of the history. Raises OSError, ResyncError."""
        self.rounds[name] = this
        self._write()

    def _write(self) -> None:
        rounds = {name: (one.rev, int(one.at.timestamp())) for name, one in self.rounds.items()}
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.write_text(json.dumps({"of": self._of, "done": self.done, "rounds": rounds}), encoding="ascii")
        if self._on_disk and not self._path.exists():
            # The marks in memory are from before the resync: they would undo it.
            fresh.unlink()
            raise ResyncError
        fresh.replace(self._path)
        self._on_disk = True


def _ago(time: timedelta) -> str:
    seconds = max(0, round(time.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


class Sync(threading.Thread):
    """Pushes rows that the book has not acknowledged, and moves the mark after the acknowledgement.

    problem: why the book is behind, or None. faults: what is wrong in the book. backlog: rows that it lacks.
    current_at: when it last had everything.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        super().__init__(name="book", daemon=True)
        self._settings, self._clock, self._begun_at = settings, clock, clock.tick().wall
        self._ending = threading.Event()
        self._book: Book | None = None
        self._past = Past(settings)
        self.problem: str | None = None
        self.faults: list[str] = []
        self.backlog = 0
        self.current_at: datetime | None = None

    def stop(self, grace: float = 1.0) -> None:
        """End the thread. If it waits for the server, it is left alone after `grace` seconds."""
        self._ending.set()
        self.join(grace)

    def state(self) -> dict[str, Any]:
        """For status: {"backlog": rows that the book lacks, "current_at": when it lacked none, or null, "summary"}."""
        current_at = None if self.current_at is None else format_time(self.current_at)
        return {"backlog": self.backlog, "current_at": current_at, "summary": self.summary()}

    def behind(self) -> timedelta:
        """For how long the book has not had everything. From before this thread's start, it is the time since its last
        acknowledgement."""
        now, since = self._clock.tick().wall, self.current_at
        if since is None:
            try:
                since = datetime.fromtimestamp(marks_path(self._settings).stat().st_mtime, UTC)
            except OSError:
                since = self._begun_at
        return max(timedelta(), now - since)

    def summary(self) -> str:
        """The state in a few words: "up to date", "3 h behind, 41,220 records"."""
        if self.problem is None:
            return "up to date" if self.backlog == 0 else f"{self.backlog:,} records to go"
        if self.current_at is None:
            return f"not reached since the start, {self.backlog:,} records"
        return f"{_ago(self._clock.tick().wall - self.current_at)} behind, {self.backlog:,} records"

    def run(self) -> None:
        failures = 0
        while not self._ending.is_set():
            before = (self.problem, self.faults)
            try:
                self.push()
                failures, self.problem = 0, None
            except (LedgerError, OSError) as error:
                self.problem = str(error)
            except XenbwError as error:
                failures += 1
                self.problem = str(error)
            except Exception as error:  # noqa: BLE001 (any login may have written the cause, and may repair it)
                failures += 1
                self.problem = f"the book: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
                log.debug("the book", exc_info=True)
            self._log_changes(*before)
            self._ending.wait(self._pause(failures))
        if self._book is not None:
            self._book.close()

    def _log_changes(self, problem: str | None, faults: list[str]) -> None:
        """Log a problem when it begins and when it ends, not at each try."""
        if self.problem is not None and problem is None:
            log.error("%s", self.problem)
        elif self.problem is None and problem is not None:
            log.info("the book is reached again")
        for fault in self.faults:
            if fault not in faults:
                log.error("%s", fault)

    def _pause(self, failures: int) -> float:
        """Seconds to wait: longer after each failure, and random, so that hosts do not retry in step."""
        interval = self._settings.mongodb.interval
        longest = max(interval, min(_LONGEST_PAUSE, interval * float(2 ** min(failures, 10))))
        return longest if failures == 0 else random.uniform(longest / 2, longest)  # noqa: S311 (no secret)

    def push(self) -> None:
        """Push everything that the book lacks; a resync meanwhile ends the push. Raises BookError, LedgerError; rows
        acknowledged by then stay so."""
        ledger = Ledger.open(self._settings.ledger.path, patience=_LOCK_PATIENCE)
        try:
            marks = Marks(self._settings, ledger)
            if marks.are_beyond(ledger.meta("rev")):
                # An earlier copy was put in the ledger's place. As another ledger, it may bring rows back in the book.
                ledger.set_meta("id", secrets.token_hex(8))
                marks = Marks(self._settings, ledger)
            self.backlog = changes.backlog(ledger, marks.done)
            book = self._open_book()
            if not any(marks.done.values()):
                book.prepare()  # a resync: a new server has no indexes
            for table in changes.TABLES:
                while self._push_chunk(ledger, book, table, marks) and not self._ending.is_set():
                    pass
            now = self._latest(ledger, self._clock.tick().wall)
            for name, last in marks.rounds.items():
                if this := self._past.push(ledger, name, last, now, partial(book.write_past, ledger)):
                    marks.finish(name, this)
            self.backlog = changes.backlog(ledger, marks.done)
            if self.backlog == 0:
                self.current_at = self._clock.tick().wall
            self.faults = pull(ledger, book, self._settings.default_allowance, now)
            # Names of VMs may have dots, which names of fields should not.
            states = [{"vm": name, "state": state.value} for name, state in shared.states(ledger).items()]
            facts = {"version": __version__, "backlog": self.backlog, "states": states}
            book.write("hosts", [book.heartbeat(self._clock.tick().wall, facts)])
        except ResyncError:
            # The next push finds no marks, and so begins with the first row and with the indexes.
            self.backlog = changes.backlog(ledger, dict.fromkeys(changes.TABLES, 0))
        finally:
            ledger.close()

    @staticmethod
    def _latest(ledger: Ledger, now: datetime) -> datetime:
        """The present time, or the daemon's last commit if that is later: by a clock that is behind, as after a boot
        with a dead battery, the usage of other hosts and our own history would lie in the future."""
        alive = ledger.alive()
        return now if alive is None else max(now, alive.at)

    def _push_chunk(self, ledger: Ledger, book: Book, table: str, marks: Marks) -> bool:
        """Push the next rows of a table. Returns whether there may be more."""
        chunk = changes.after(ledger, table, marks.done[table], _CHUNK)
        for collection, documents in book.documents(ledger, chunk):
            book.write(collection, documents)
        for digest in chunk.rows if table == "digest" else ():
            book.forget_lives(digest, changes.bindings_beside(ledger, digest), ledger.meta("id"))
        if chunk.rows:
            marks.move(table, chunk.upto)
        return len(chunk.rows) >= _CHUNK

    def _open_book(self) -> Book:
        if self._book is None:
            driver.load()
            from xenbw.book.book import Book

            book = Book(self._settings)
            book.prepare()
            self._book = book
        return self._book

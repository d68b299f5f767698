"""A damaged ledger: set aside, never thrown away, and nobody set free by it."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from xenbw.enforce import overfile
from xenbw.model import Cause
from xenbw.store.ledger import CorruptLedgerError, Ledger

log = logging.getLogger(__name__)

# Seconds to look for damage at start: guests at boot wait for READY.
_CHECK = 1.0

# What a new ledger needs to go on as before; bindings are found again, history stays in the file set aside.
_CARRIED = ("vm", "block", "usage")


def open_or_replace(path: Path, over: Path, now: datetime, on_progress: Callable[[], None] = lambda: None) -> Ledger:
    """The ledger, made where there is none. One that is damaged is renamed and replaced by a new one, with whatever of
    its VMs, blocks and usage can still be read; whoever the over file lists stays blocked. For the daemon alone.

    on_progress: as for Ledger.open. Raises LedgerError for everything else that is wrong with it.
    """
    try:
        ledger = Ledger.open(path, create=True, patience=0.5, on_progress=on_progress)
        try:
            ledger.check(_CHECK)
            if _suspect(path).exists():
                raise CorruptLedgerError(f"{path}: the ledger was found damaged while in use", "it is set aside")
        except BaseException:
            ledger.close()
            raise
    except CorruptLedgerError as error:
        aside = path.with_name(f"{path.name}.damaged-{now:%Y%m%dT%H%M%SZ}")
        log.error("%s; set aside as %s", error.message, aside)
    else:
        return ledger
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    _suspect(path).unlink(missing_ok=True)
    ledger = Ledger.open(path, create=True, patience=0.5)
    with ledger.transaction() as db:
        carried = _carry_over(db, aside)
        for table in _CARRIED:
            # By the damaged ledger's count the book would wait for revs that this one has yet to reach.
            db.execute(f"UPDATE {table} SET rev = ?", (ledger.rev,))  # noqa: S608 (names of this module)
        kept = _keep_blocked(ledger, over, now)
        ledger.record(now, "damaged", f"the ledger was damaged and set aside as {aside}; {carried}; {kept}")
    log.error("new ledger: %s; %s", carried, kept)
    return ledger


def mark(path: Path) -> None:
    """Leave word for the next start that the ledger is damaged, where a short look at it might not find out."""
    with contextlib.suppress(OSError):
        _suspect(path).touch()


def _suspect(path: Path) -> Path:
    return path.with_name(f"{path.name}.suspect")


def _carry_over(db: sqlite3.Connection, aside: Path) -> str:
    """Copy what can still be read, table by table, until the damage."""
    told = []
    with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as old:
        for table in _CARRIED:
            rows = 0
            try:
                for row in old.execute(f"SELECT * FROM {table}"):  # noqa: S608 (names of this module)
                    places = ", ".join("?" * len(row))
                    db.execute(f"INSERT OR IGNORE INTO {table} VALUES ({places})", row)  # noqa: S608
                    rows += 1
            except sqlite3.Error as error:
                log.warning("%s: reading %s ended after %d rows: %s", aside, table, rows, error)
            told.append(f"{rows} {table} rows")
    return "carried over " + ", ".join(told)


def _keep_blocked(ledger: Ledger, over: Path, now: datetime) -> str:
    """Nobody may come free because a file was damaged: who was blocked and cannot be read is blocked by name."""
    listed = overfile.read(str(over))
    kept = []
    for name, addresses in listed.blocked.items() if listed else ():
        vm = ledger.meet(name, now)
        if vm.id in ledger.active_blocks():
            continue
        reason = "was blocked when the ledger was damaged; xenbw lift releases it"
        ledger.set_vm(vm.id, blocked_reason=reason, ips=" ".join(addresses))
        ledger.block(vm.id, Cause.ADMIN, reason, now, None)
        kept.append(name)
    return f"{len(kept)} VMs kept blocked by name"

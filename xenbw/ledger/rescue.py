"""A damaged or lost ledger: rows that can be read are kept in use, no file is deleted, and no VM is released by it."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path

from xenbw.ledger import aliases, check, kept, replacement
from xenbw.ledger.ledger import CorruptLedgerError, Ledger, to_text
from xenbw.ledger.sieve import Sieve
from xenbw.ledger.sift import sift

log = logging.getLogger(__name__)

# Seconds to look for damage at start: guests at boot wait for READY.
_CHECK = 1.0
# Seconds between two signs of life while a large ledger is looked over or replaced.
_BEAT = 1.0

Blocked = Mapping[str, Iterable[str]]
"""The blocked VMs by name, with their addresses."""


def open_or_replace(
    path: Path, listed: Blocked | None, now: datetime, on_progress: Callable[[float], None] = lambda _: None
) -> Ledger:
    """Open the ledger, or make one where there is none. Its `damage` says what was wrong with it. For the daemon alone.

    Rows with impossible values are taken out. A file that cannot be read as a whole is renamed and replaced by a new
    one, with the VMs, blocks and usage that can still be read. A VM that was blocked, by the ledger or by `listed`,
    stays blocked.

    listed: the blocked VMs of the over file, or None if there is no such file; it holds for this host also if it was
    written for another ledger, as before a change of [ledger] path. on_progress: as for Ledger.open, and while the
    ledger is looked over or replaced. Raises LedgerError for everything else that is wrong with the ledger.
    """
    beat, sieve = _Beat(on_progress), Sieve(str(to_text(now)))
    # A daemon was killed when it had made a replacement, which recorded what was wrong.
    aside = replacement.take_place(path)
    if aside is not None:
        _suspect(path).unlink(missing_ok=True)
    missing = listed is not None and not _has_content(path)
    try:
        ledger = _open(path, sieve, on_progress, beat)
    except CorruptLedgerError as error:
        log.error("%s; it is set aside, and replaced", error.message)
        damage, held = replacement.replace(
            path, now, lambda new, doubt, told: _keep(new, doubt, told, listed, now), beat
        )
        ledger = Ledger.open(path, patience=0.5)
    else:
        told = ""
        if sieve.aside:
            told = f"{len(sieve.aside)} rows with impossible values are set aside in {_write_aside(path, sieve, now)}"
        elif missing:
            told = f"{path}: the ledger was gone or empty, so a new one was made (is its file system mounted?)"
        damage, held = _keep(ledger, sieve, told, listed, now)
        if aside is not None:
            damage, held = f"the ledger was damaged and set aside as {aside}", {**kept.held(ledger), **held}
    ledger.damage, ledger.kept = damage, held
    _suspect(path).unlink(missing_ok=True)
    return ledger


class _Beat:
    """Tells now and then that work goes on."""

    def __init__(self, on_progress: Callable[[float], None]) -> None:
        self._tell, self._told_at = on_progress, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() > self._told_at + _BEAT:
            self._told_at = time.monotonic()
            self._tell(0.0)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _open(path: Path, sieve: Sieve, on_progress: Callable[[float], None], beat: Callable[[], None]) -> Ledger:
    """Open the ledger and sift its rows. Raises CorruptLedgerError if more than values is damaged."""
    ledger = Ledger.open(path, create=True, patience=0.5, on_progress=on_progress)
    # A ledger that was found damaged in use is checked completely, however long that takes.
    suspect = _suspect(path).exists()
    seconds = math.inf if suspect else _CHECK
    try:
        ledger.lend(lambda db: sift(db, sieve, seconds, beat))
        check.check(ledger, seconds, beat)
        if suspect and not sieve.aside:
            raise CorruptLedgerError(f"{path}: the ledger was found damaged while in use", "it is set aside")
    except BaseException:
        ledger.close()
        raise
    return ledger


def _write_aside(path: Path, sieve: Sieve, now: datetime) -> Path:
    """Write the rows that were set aside into a file beside the ledger, as JSON, for the admin."""
    aside = path.with_name(f"{path.name}.rows-{now:%Y%m%dT%H%M%SZ}.jsonl")
    with contextlib.suppress(OSError):
        file = os.open(aside, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as stream:
            stream.writelines(f"{line}\n" for line in sieve.aside)
    return aside


def _keep(
    ledger: Ledger, sieve: Sieve, told: str, listed: Blocked | None, now: datetime
) -> tuple[str | None, Mapping[int, str]]:
    """Keep VMs blocked that were blocked before the damage, and record what was wrong. Returns what was wrong, and the
    names of these VMs by id."""
    with ledger.transaction():
        aliases.forget_gone(ledger)
        found = kept.keep(ledger, sieve, listed or {}, now)
        if found and not told:
            told = "the ledger shows some blocked VMs neither as blocked nor as released"
        if told:
            names = ", ".join(sorted(found.values())) or "nobody"
            # The names are for the event only: the status names those that are still blocked.
            ledger.record(now, "damaged", f"{told}; blocked until an admin lifts them: {names}")
    return told or None, found


def mark(path: Path) -> None:
    """Mark the ledger as damaged for the next start, whose short check might not find the damage."""
    with contextlib.suppress(OSError):
        _suspect(path).touch()


def _suspect(path: Path) -> Path:
    return path.with_name(f"{path.name}.suspect")

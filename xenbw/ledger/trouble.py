"""What goes wrong with the ledger's file, in the admin's words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from xenbw.errors import XenbwError


class LedgerError(XenbwError):
    """The ledger cannot be used: missing, locked, read-only, full, or newer than this program."""


class CorruptLedgerError(LedgerError):
    """The file is not a ledger, or is damaged. Only the daemon sets it aside."""


_HINT = "start xenbwd: it sets aside what is damaged; blocks stay"
# What SQLite's module says of a value that is not what its column holds.
_IMPOSSIBLE = ("Could not decode to UTF-8", "integer overflow")


def impossible(error: Exception) -> CorruptLedgerError:
    """A value of the ledger is none that xenbw wrote."""
    return CorruptLedgerError(f"the ledger is damaged: {error}", _HINT)


def explain(path: Path, error: sqlite3.Error) -> LedgerError:
    """SQLite's error about the ledger there, with what to do about it."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or str(error).startswith(_IMPOSSIBLE):
        return CorruptLedgerError(f"{path}: the ledger is damaged", _HINT)
    hint = {
        "SQLITE_BUSY": "another process holds it; try again",
        "SQLITE_READONLY": "is the file system mounted read-only? are you root?",
        "SQLITE_CANTOPEN": "is xenbwd running? are you root?",
        "SQLITE_FULL": "the disk is full; free some space",
        "SQLITE_IOERR": "the disk is full or answers with errors; see df and dmesg",
    }
    prefix = "_".join(name.split("_")[:2])
    return LedgerError(f"{path}: {error}", hint.get(prefix, "see the file system and its permissions"))

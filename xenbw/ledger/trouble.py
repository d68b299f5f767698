"""What can be wrong with the ledger's file, as errors with a hint for the admin."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from xenbw.errors import XenbwError


class LedgerError(XenbwError):
    """The ledger cannot be used: missing, locked, read-only, full, or newer than this program."""


class CorruptLedgerError(LedgerError):
    """The file is not a ledger, or is damaged. Only the daemon sets it aside."""


_HINT = "start xenbwd: it sets damaged rows or files aside; blocks stay"
# How the sqlite3 module's errors begin for a value that does not fit its column.
_IMPOSSIBLE = ("Could not decode to UTF-8", "integer overflow")


def impossible(error: Exception) -> CorruptLedgerError:
    """The error for a value in the ledger that xenbw cannot have written."""
    return CorruptLedgerError(f"the ledger is damaged: {error}", _HINT)


def damaged(path: Path) -> CorruptLedgerError:
    """The error for a ledger's file in which SQLite found damage."""
    return CorruptLedgerError(f"{path}: the ledger is damaged", _HINT)


def explain(path: Path, error: sqlite3.Error) -> LedgerError:
    """SQLite's error about the ledger at that path, with a hint."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or str(error).startswith(_IMPOSSIBLE):
        return damaged(path)
    hint = {
        "SQLITE_BUSY": "another process holds it; try again",
        "SQLITE_READONLY": "is the file system mounted read-only? are you root?",
        "SQLITE_CANTOPEN": "is xenbwd running? is the file system mounted read-only? are you root?",
        "SQLITE_FULL": "the disk is full; free some space",
        "SQLITE_IOERR": "the disk is full or answers with errors; see df and dmesg",
    }
    prefix = "_".join(name.split("_")[:2])
    return LedgerError(f"{path}: {error}", hint.get(prefix, "see the file system and its permissions"))

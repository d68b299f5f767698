"""A ledger as an earlier version left it, with rows in every table."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

SCHEMA1 = Path(__file__).parents[1] / "data/ledger/schema1.sql"

Rows = dict[str, list[dict[str, object]]]


def make_schema1(path: Path) -> Path:
    """Version 0.1.0's ledger, at `path`."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(SCHEMA1.read_text(encoding="utf-8"))
    path.chmod(0o640)
    return path


def rows(path: Path) -> Rows:
    """All rows, by table and column."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        return {table: [dict(row) for row in db.execute(f"SELECT * FROM {table}")] for table in tables}  # noqa: S608


def version(path: Path) -> int:
    """The schema number in its file."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        number: int = db.execute("PRAGMA user_version").fetchone()[0]
        return number


def sound(path: Path) -> bool:
    """Whether SQLite finds it undamaged."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return bool(db.execute("PRAGMA integrity_check").fetchone()[0] == "ok")


def narrowed(whole: Rows, to: Rows) -> Rows:
    """The rows, with only the columns that the other rows have too."""
    return {
        table: [{key: row[key] for key in to[table][0]} for row in found]
        for table, found in whole.items()
        if to.get(table)
    }

"""Damage a ledger: make pages unreadable, and write impossible values."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

GARBAGE = (
    "garbage",
    "",
    "2026-13-45T99:99:99",
    "9999-12-31T00:00:00.000000+00:00",
    "400.1.2.3",
    "a b c d e f g",
    2**62,
    -7,
    1.5,
    b"\xff\xfe\x00",
    None,
)


def garble(path: Path, table: str, column: str, value: object, chance: random.Random) -> bool:
    """Write a value into that column of some row, whatever the schema says; bytes become text that is not UTF-8.
    Returns whether SQLite can hold the value there."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        keys = [row[0] for row in db.execute("SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", (table,))]
        rows = db.execute(f"SELECT {', '.join(keys)} FROM {table}").fetchall()  # noqa: S608 (names of the schema)
        (schema,) = db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    where = " AND ".join(f"{key} = ?" for key in keys)
    place = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
    # Damage on a disk ignores constraints.
    _define(path, table, schema.replace(" NOT NULL", ""))
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(
                f"UPDATE {table} SET {column} = {place} WHERE {where}",  # noqa: S608 (names of the schema)
                (value, *chance.choice(rows)),
            )
    except sqlite3.IntegrityError:
        return False
    finally:
        _define(path, table, schema)
    return True


def _define(path: Path, table: str, schema: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (schema, table))


def columns(path: Path) -> list[tuple[str, str]]:
    """(table, column) of all columns in the ledger."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(
            "SELECT t.name, c.name FROM sqlite_schema AS t, pragma_table_info(t.name) AS c WHERE t.type = 'table'"
            " ORDER BY 1, 2"
        ).fetchall()


def spoil(path: Path, table: str) -> None:
    """Make the root page of a table, and so all of its rows, unreadable; its indexes stay."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        root, size = db.execute(
            "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = ?", (table,)
        ).fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xaa" * size)

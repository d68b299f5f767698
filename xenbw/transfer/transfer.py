"""The whole ledger as records, and a new ledger from them: every row of every table, unchanged."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

from xenbw.ledger import history, schema, sieve
from xenbw.ledger.ledger import CorruptLedgerError, Ledger, LedgerError
from xenbw.ledger.rows import binding_of, block_of, digest_of, to_text, vm_of
from xenbw.ledger.sound import Shape

Record = dict[str, Any]

_AT_ONCE = 2000
_TIMES = frozenset({"at", "hour", "since", "until", "last_at", "period_start", "state_since", "lifted_until"})
_MODELS: Mapping[str, Callable[[sqlite3.Row], object]] = {
    "vm": vm_of,
    "binding": binding_of,
    "block": block_of,
    "digest": digest_of,
    "history_run": lambda row: history.run_of(row["span"], row["start"], row["amounts"]),
}
_LARGEST = 2**63
_LONGEST_RECORD = 2**20


def facts() -> Record:
    """What an archive's first line says of the ledger in it."""
    return {"schema": schema.VERSION}


def records(ledger: Ledger) -> Generator[str, None, None]:
    """Every row as {"table": …, its columns} in JSON, all as of one moment. A row comes after the rows that it refers
    to. Close it before the ledger. Raises LedgerError."""
    with ledger.snapshot():
        for table in _tables(ledger):
            for row in _walk(ledger, table):
                yield json.dumps({"table": table, **dict(row)})


def count(ledger: Ledger) -> int:
    """How many records `records` has. Raises LedgerError."""
    return sum(
        ledger.rows(f"SELECT count(*) FROM {table}")[0][0]  # noqa: S608 (a name of this ledger's schema)
        for table in _tables(ledger)
    )


@contextmanager
def filling(ledger: Ledger, schema_version: object) -> Iterator[Filling]:
    """Fill an empty ledger, whole or not at all, from a ledger of this schema or an earlier one. Raises LedgerError."""
    if not isinstance(schema_version, int) or not 1 <= schema_version <= schema.VERSION:
        raise LedgerError(
            f"a copy of a ledger with schema {schema_version}, this xenbw has {schema.VERSION}", "upgrade xenbw"
        )
    shapes = _shapes(schema_version)
    # SQLite checks each row's references at once, so that the error can name the line.
    ledger.rows("PRAGMA foreign_keys = ON")
    with ledger.transaction() as db:
        if not _empty(ledger):
            raise LedgerError(
                f"{ledger.path}: has records in it, and only an empty ledger is filled",
                f"move {ledger.path}* away first",
            )
        yield Filling(db, shapes)
        if "history" not in shapes:
            db.execute(schema.HISTORY_OF_USAGE)


def _empty(ledger: Ledger) -> bool:
    """Whether nothing was ever recorded in the ledger."""
    return not any(
        ledger.rows(f"SELECT 1 FROM {table} LIMIT 1")  # noqa: S608 (a name of this ledger's schema)
        for table in _tables(ledger)
        if table != "meta"
    )


def _tables(ledger: Ledger) -> list[str]:
    return [row[0] for row in ledger.rows("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid")]


def _shapes(version: int) -> dict[str, Shape]:
    """The tables of that schema, by name. Later schemas only add to them (schema.MIGRATIONS)."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for script in schema.MIGRATIONS[:version]:
            db.executescript(script)
        return sieve.shapes(db)


def _walk(ledger: Ledger, table: str) -> Iterator[sqlite3.Row]:
    """The table by its primary key, some rows at a time."""
    keys = [row[0] for row in ledger.rows("SELECT name FROM pragma_table_info(?) WHERE pk ORDER BY pk", table)]
    key, marks = ", ".join(keys), ", ".join("?" * len(keys))
    order = f"ORDER BY {key} LIMIT {_AT_ONCE}"
    rows = ledger.rows(f"SELECT * FROM {table} {order}")  # noqa: S608 (names of this ledger's schema)
    while rows:
        yield from rows
        beyond = f"WHERE ({key}) > ({marks})"
        rows = ledger.rows(
            f"SELECT * FROM {table} {beyond} {order}",  # noqa: S608 (as above)
            *(rows[-1][name] for name in keys),
        )


class Filling:
    """A ledger that is being filled, inside its transaction. shapes: the tables of the ledger that the records are of.
    counts: rows by table."""

    def __init__(self, db: sqlite3.Connection, shapes: Mapping[str, Shape]) -> None:
        self._db, self._shapes = db, shapes
        self.counts: Counter[str] = Counter()

    def take(self, text: str) -> None:
        """Insert one record. Raises ValueError, KeyError or TypeError for a record that is not a row of its schema."""
        if len(text) > _LONGEST_RECORD:
            raise ValueError(f"a record of {len(text):,} letters, and none has more than {_LONGEST_RECORD:,}")
        record = json.loads(text)
        if not isinstance(record, dict):
            raise TypeError("not a record")
        table = record.pop("table")
        shape = self._shapes.get(table) if isinstance(table, str) else None
        if shape is None:
            raise ValueError(f"no table {table!r} is known")
        columns = shape.columns
        if record.keys() != columns.keys():
            raise ValueError(f"{table} has the columns {', '.join(columns)}")
        for name, value in record.items():
            _check(name, columns[name][0], value)
        self._check_values(shape, record)
        if table == "meta":
            self._take_meta(record["key"], record["value"])
        else:
            self._insert(table, record)
        self.counts[table] += 1

    def _check_values(self, shape: Shape, record: Record) -> None:
        for name in shape.faults(record):
            # Other faults are left to SQLite (NOT NULL) and to the model, which name the reason.
            is_number = isinstance(record[name], int) and not name.endswith("_bytes")
            if is_number or (shape.table == "meta" and record["key"] == "alive"):
                raise ValueError(f"{shape.table}: {name}: {record[name]!r} is impossible")

    def _take_meta(self, key: object, value: object) -> None:
        # The imported ledger keeps its own id, so that the book starts from its beginning (book.sync.Marks).
        if key == "rev":
            if not isinstance(value, int):
                raise TypeError("rev is a whole number")
            self._db.execute("UPDATE meta SET value = max(value, ?) WHERE key = 'rev'", (value,))
        elif key != "id":
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def _insert(self, table: str, record: Record) -> None:
        marks = ", ".join("?" * len(record))
        try:
            row = self._db.execute(
                f"INSERT INTO {table} ({', '.join(record)}) VALUES ({marks}) RETURNING *",  # noqa: S608 (checked names)
                tuple(record.values()),
            ).fetchone()
        except sqlite3.IntegrityError as error:
            raise ValueError(str(error)) from None
        if table in _MODELS:
            try:
                _MODELS[table](row)
            except CorruptLedgerError as error:
                raise ValueError(error.message) from None


def _check(name: str, kind: str, value: object) -> None:
    """Raise ValueError or TypeError if the column may not hold this value. SQLite itself would take anything."""
    if value is None:
        return  # SQLite checks NOT NULL
    if isinstance(value, bool) or not isinstance(value, {"INTEGER": int, "TEXT": str}.get(kind, (int, float, str))):
        raise TypeError(f"{name}: {value!r} is not {'a whole number' if kind == 'INTEGER' else 'a text'}")
    if isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise ValueError(f"{name}: {value} is out of range")
    is_time = isinstance(value, str) and (name in _TIMES or name.endswith("_at"))
    if is_time and to_text(datetime.fromisoformat(str(value))) != value:
        raise ValueError(f"{name}: {value!r} is not a time as the ledger writes it")

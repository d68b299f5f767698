"""The look at the ledger's values at each start: a row with an impossible value is repaired or set aside."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable

from xenbw.ledger.bindings import next_rev
from xenbw.ledger.sieve import Sieve, reading_anything, shapes
from xenbw.ledger.sound import ENCODING, Shape, is_time

# In this order: the tables that a start reads first, and their newest rows first. SQLite itself checks _PLAIN.
_ORDER = (
    ("meta", ""),
    ("vm", ""),
    ("block", "ORDER BY lifted_at IS NOT NULL"),
    ("elsewhere", ""),
    ("unmetered", ""),
    ("binding", "ORDER BY ended_at IS NOT NULL, id DESC"),
    ("usage", ""),
    ("outbox", ""),
    ("digest", ""),
    ("event", ""),
    ("binding_usage", ""),
    ("reading", ""),
    ("history", ""),
    ("history_run", ""),
)
_PLAIN = ("usage", "binding_usage", "reading", "elsewhere", "history")
_PATTERN = f"[12][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9].{'[0-9]' * 6}+00:00"
_NEEDED = frozenset({b"rev", b"id"})  # rows of meta that every transaction needs
_NO_ROWID = ("meta", "usage", "binding_usage", "reading", "history")


def sift(db: sqlite3.Connection, sieve: Sieve, seconds: float, on_beat: Callable[[], None] = lambda: None) -> None:
    """Repair or set aside the rows with impossible values that are found within so many seconds. on_beat: called often
    while they are looked for. Raises sqlite3.Error."""
    found, lost = (
        _unsound(db, seconds, on_beat),
        _NEEDED.difference(key for (key,) in db.execute("SELECT CAST(key AS BLOB) FROM meta")),
    )
    if not found and not lost:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        for shape, row in found:
            if shape.table == "meta":
                _settle(db, sieve, shape, row)
        for key in sorted(lost):
            sieve.note("meta", {"key": key.decode(), "value": None}, ["key"])
        _mend_meta(db)
        sieve.rev = next_rev(db)
        for shape, row in found:
            if shape.table != "meta":
                _settle(db, sieve, shape, row)
        sieve.part_orphans(db)
        if sieve.uncounted:
            # Without `alive` the daemon does not charge what passed interfaces whose marks are lost before it starts.
            db.execute("DELETE FROM meta WHERE key = 'alive'")
        # The indexes do not match a value that the disk changed.
        db.execute("REINDEX")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _settle(db: sqlite3.Connection, sieve: Sieve, shape: Shape, row: dict[str, object]) -> None:
    kept = sieve.pass_through(shape, {name: row[name] for name in shape.columns})
    where, values = _where(db, shape, row)
    if kept is not None:
        changed = {name: value for name, value in kept.items() if value is not row[name]}
        columns = ", ".join(f"{name} = ?" for name in changed)
        done = db.execute(
            f"UPDATE OR IGNORE {shape.table} SET {columns} WHERE {where}",  # noqa: S608 (names of the schema)
            (*changed.values(), *values),
        )
        if done.rowcount:
            return
    db.execute(f"DELETE FROM {shape.table} WHERE {where}", values)  # noqa: S608 (as above)


def _unsound(
    db: sqlite3.Connection, seconds: float, on_beat: Callable[[], None]
) -> list[tuple[Shape, dict[str, object]]]:
    known, found = shapes(db), []
    limit = time.monotonic() + seconds

    def is_over() -> bool:
        on_beat()
        return time.monotonic() > limit

    factory, db.row_factory = db.row_factory, sqlite3.Row
    db.set_progress_handler(is_over, 10_000)
    try:
        with reading_anything(db):
            for table, order in _ORDER:
                key = "" if table in _NO_ROWID else "rowid AS _rowid, "
                condition = f"WHERE {_suspect(known[table])}" if table in _PLAIN else ""
                rows = db.execute(f"SELECT {key}* FROM {table} {condition} {order}")  # noqa: S608 (as above)
                # One by one, so that the rows found so far are kept when the time is up.
                for row in filter(known[table].faults, rows):
                    found.append((known[table], dict(row)))  # noqa: PERF401
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "") != "SQLITE_INTERRUPT":
            raise
    finally:
        db.set_progress_handler(None, 0)
        db.row_factory = factory
    return found


def _suspect(shape: Shape) -> str:
    """The SQL condition for impossible values in a table of whole numbers and times: SQLite finds such rows faster."""
    odd = []
    for name, (_, optional) in shape.columns.items():
        if is_time(name):
            odd.append(
                f"{name} NOT GLOB '{_PATTERN}' OR typeof({name}) != 'text'"
                f" OR substr({name}, 1, 19) IS NOT strftime('%Y-%m-%dT%H:%M:%S', substr({name}, 1, 19))"
                f" OR {name} < '1969' OR {name} >= '2200'"
            )
        else:
            odd.append(f"typeof({name}) != 'integer' OR {name} NOT BETWEEN 0 AND {2**53 - 1}")
        if not optional:
            odd.append(f"{name} IS NULL")
    return " OR ".join(odd)


def _where(db: sqlite3.Connection, shape: Shape, row: dict[str, object]) -> tuple[str, list[object]]:
    if "_rowid" in row:
        return "rowid = ?", [row["_rowid"]]
    keys = db.execute("SELECT name FROM pragma_table_info(?) WHERE pk", (shape.table,)).fetchall()
    values = [row[name] for (name,) in keys]
    # Text that is not UTF-8 is compared as bytes.
    where = " AND ".join(
        f"{name} IS CAST(? AS TEXT)" if isinstance(value, str) else f"{name} IS ?"
        for (name,), value in zip(keys, values, strict=True)
    )
    return where, [value.encode(*ENCODING) if isinstance(value, str) else value for value in values]


def _mend_meta(db: sqlite3.Connection) -> None:
    """Restore missing rows of meta: transactions need `rev`, which must not go back, and the book needs `id`."""
    revs = " UNION ALL ".join(
        f"SELECT max(rev) AS rev FROM {table} WHERE typeof(rev) = 'integer' AND rev < {2**53}"  # noqa: S608 (as above)
        for table, shape in shapes(db).items()
        if "rev" in shape.columns
    )
    db.execute(f"INSERT OR IGNORE INTO meta SELECT 'rev', coalesce(max(rev), 0) FROM ({revs})")  # noqa: S608 (ours)
    db.execute("INSERT OR IGNORE INTO meta VALUES ('id', lower(hex(randomblob(8))))")

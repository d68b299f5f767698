"""Rows of a damaged ledger: which of them are kept, which are set aside, and which VMs' blocks are in doubt then."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from xenbw.ledger import sound
from xenbw.ledger.sound import Row, Shape

NOW, REV = object(), object()  # the time of the repair, and the number of its transaction

# What replaces an impossible value, by table and column. A row with an impossible value in any other column is set
# aside; a binding's marks are such columns, since counting from an invented mark would charge bytes twice.
_INSTEAD: Mapping[str, Mapping[str, object]] = {
    "vm": {
        "found_at": NOW,
        "added_at": NOW,
        "retired_at": None,
        **dict.fromkeys(("limit_bytes", "count", "warn_percent", "action", "reset_day", "allow", "config_file")),
        "mail": None,
        **dict.fromkeys(("rate", "rate_in", "hard_limit_bytes", "warn_percents", "threshold", "forecast_at")),
        **dict.fromkeys(("period_start", "period_rule", "state_since", "lifted_until", "book_base")),
        "unlimited": 0,
        "ips": "",
        "state": "ok",
        "state_reason": "",
        "blocked_reason": "blocked by the admin; the reason was damaged in the ledger",
        "rev": REV,
    },
    "binding": {
        **dict.fromkeys(("mac", "bridge", "end_reason", "last_at")),
        "ips": "",
        "interface": "",
        "started_at": NOW,
        "ended_at": NOW,
        **dict.fromkeys(("in_bytes", "out_bytes", "flood_bytes", "refused_in_bytes", "refused_out_bytes"), 0),
        "rev": REV,
    },
    **{table: {"rev": REV} for table in ("usage", "reading", "block", "event", "digest")},
}
# The tables that decide whether a VM is blocked.
_DECIDE = frozenset({"block", "usage", "elsewhere"})
# child table, its column, parent table. A child row whose parent is gone would belong to the next parent with that id.
_FAMILIES = (
    *((child, "vm_id", "vm") for child in ("block", "usage", "elsewhere", "unmetered", "digest", "binding")),
    *((child, "vm_id", "vm") for child in ("history", "history_run")),
    *((child, "binding_id", "binding") for child in ("binding_usage", "reading")),
)


class Sieve:
    """Lets rows through, and notes the rows that it did not let through unchanged.

    aside: the rows that were set aside or repaired, as JSON. doubted: ids of the VMs whose blocks or usage may be
    incomplete; everyone: any VM's may be. blocked: ids of VMs that are blocked by rows that were set aside. lost_block:
    a VM was blocked, and its id is lost. uncounted: an interface may have lost the mark that it is counted from. cut:
    the tables that could not be read to their end. now, rev: the time and the transaction of the repair.
    """

    def __init__(self, now: str) -> None:
        self.now, self.rev = now, 0
        self.cut: set[str] = set()
        self.aside: list[str] = []
        self.doubted: set[int] = set()
        self.blocked: set[int] = set()
        self.everyone = self.lost_block = self.uncounted = False

    def pass_through(self, shape: Shape, row: Row) -> dict[str, object] | None:
        """The row as it is kept, or None if it is set aside."""
        whole, faults = dict(row), shape.faults(row)
        if faults:
            self.note(shape.table, row, faults)
            instead = _INSTEAD.get(shape.table, {})
            if not instead.keys() >= set(faults):
                self.uncounted = self.uncounted or shape.table == "binding"
                return None
            whole |= {name: self._value(instead[name]) for name in faults}
            if shape.table == "binding" and "interface" in faults:
                whole["interface"] = f"vif{whole['domid']}.{whole['devid']}"
        return whole

    def _value(self, instead: object) -> object:
        return self.now if instead is NOW else self.rev if instead is REV else instead

    def note(self, table: str, row: Row, faults: list[str]) -> None:
        """A row is set aside or repaired: keep it for the admin, and note what is in doubt now."""
        shown = {name: value.hex() if isinstance(value, bytes) else value for name, value in dict(row).items()}
        self.aside.append(json.dumps({"table": table, "wrong": faults, **shown}))
        if faults == ["rev"]:
            return
        vm_id = row["id"] if table == "vm" else row["vm_id"] if table in _DECIDE else None
        known = isinstance(vm_id, int) and "vm_id" not in faults
        if table == "vm" or (table in _DECIDE and known):
            self.doubted |= {vm_id} if isinstance(vm_id, int) else set()
        elif table in _DECIDE:
            self.everyone = True
        if table == "block" and (row["lifted_at"] is None or "lifted_at" in faults):
            self.blocked |= {vm_id} if isinstance(vm_id, int) and known else set()
            self.lost_block = self.lost_block or not known

    def part_orphans(self, db: sqlite3.Connection) -> None:
        """Delete the rows that refer to a missing row, before its id is given out again."""
        db.row_factory = sqlite3.Row
        for child, column, parent in _FAMILIES:
            orphaned = f"FROM {child} WHERE {column} NOT IN (SELECT id FROM {parent})"  # noqa: S608 (names of this module)
            # These tables are not noted row by row: the notes could be as long as the ledger.
            if child not in ("reading", "binding_usage", "binding", "history", "history_run"):
                for row in db.execute(f"SELECT * {orphaned}").fetchall():
                    of_known = row[column] in self.doubted
                    self.note(child, row, [] if of_known else [column])
            db.execute(f"DELETE {orphaned}")
        db.execute("UPDATE event SET vm_id = NULL WHERE vm_id NOT IN (SELECT id FROM vm)")


def shapes(db: sqlite3.Connection) -> dict[str, Shape]:
    """The tables of a ledger, by name, parents before their children."""
    found = {}
    for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid").fetchall():
        columns = db.execute('SELECT name, type, "notnull" OR pk FROM pragma_table_info(?)', (table,)).fetchall()
        found[table] = Shape(table, {name: (kind, not needed) for name, kind, needed in columns})
    return found


@contextmanager
def reading_anything(db: sqlite3.Connection) -> Iterator[None]:
    """Inside, text that is not UTF-8 can be read as well."""
    before, db.text_factory = db.text_factory, sound.readable
    try:
        yield
    finally:
        db.text_factory = before

"""Rows of a damaged ledger: which of them go on, which are set aside, and whose standing is in doubt for it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from xenbw.ledger import sound
from xenbw.ledger.sound import Row, Shape

NOW, REV = object(), object()  # the time of the mending, the number of its transaction

# What a value that cannot be gives way to, where the row is worth more without it than lost. A binding's marks are not
# among them: to count from a mark that is made up would charge bytes twice.
_INSTEAD: Mapping[str, Mapping[str, object]] = {
    "vm": {
        "found_at": NOW,
        "added_at": NOW,
        "retired_at": None,
        **dict.fromkeys(("limit_bytes", "count", "warn_percent", "action", "reset_day", "allow", "config_file")),
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
# The tables by which it is decided whether a VM is blocked.
_DECIDE = frozenset({"block", "usage", "elsewhere"})
# child table, its column, parent table. What refers to rows that are gone would be filed under whoever gets their ids.
_FAMILIES = (
    *((child, "vm_id", "vm") for child in ("block", "usage", "elsewhere", "unmetered", "digest", "binding")),
    *((child, "binding_id", "binding") for child in ("binding_usage", "reading")),
)


class Sieve:
    """Lets rows through, and remembers what it did not.

    aside: the rows that were set aside or mended, as JSON. doubted: ids of the VMs whose block or usage is not known
    whole; everyone: that may be any VM. blocked: ids of VMs that rows which were set aside call blocked. lost_block:
    somebody was blocked, nobody knows who. uncounted: an interface may have lost the mark that it is counted from. cut:
    the tables that could not be read to their end. now, rev: when, and in which transaction, rows are mended.
    """

    def __init__(self, now: str) -> None:
        self.now, self.rev = now, 0
        self.cut: set[str] = set()
        self.aside: list[str] = []
        self.doubted: set[int] = set()
        self.blocked: set[int] = set()
        self.everyone = self.lost_block = self.uncounted = False

    def pass_through(self, shape: Shape, row: Row) -> dict[str, object] | None:
        """The row as it goes on; None: it does not."""
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
        """A row is set aside or mended: keep it for the admin, and draw the conclusions."""
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
        """Take out whatever refers to a row that is not there, before its id is given out again."""
        db.row_factory = sqlite3.Row
        for child, column, parent in _FAMILIES:
            orphaned = f"FROM {child} WHERE {column} NOT IN (SELECT id FROM {parent})"  # noqa: S608 (names of this module)
            # The record of what is gone as a whole would be as long as the ledger.
            if child not in ("reading", "binding_usage", "binding"):
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
    """Meanwhile text that is no UTF-8 can be read as well."""
    before, db.text_factory = db.text_factory, sound.readable
    try:
        yield
    finally:
        db.text_factory = before

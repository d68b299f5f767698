"""What the book last said of this host's VMs, and what this host and the book agreed on."""

from __future__ import annotations

from datetime import datetime

from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import time_of, to_text
from xenbw.model import Counters, State


def elsewhere(ledger: Ledger) -> dict[int, tuple[datetime, Counters]]:
    """(period start, usage on other hosts in it) of each VM that ran on some, as the book last said."""
    return {
        row["vm_id"]: (time_of(row["period_start"]), Counters(row["in_bytes"], row["out_bytes"]))
        for row in ledger.rows("SELECT * FROM elsewhere")
    }


def set_elsewhere(ledger: Ledger, vm_id: int, start: datetime, usage: Counters) -> None:
    with ledger.transaction() as db:
        db.execute("INSERT OR REPLACE INTO elsewhere VALUES (?, ?, ?, ?)", (vm_id, to_text(start), *usage))


def states(ledger: Ledger) -> dict[str, State]:
    """The states of this host's VMs by name, without those that are neither past a limit nor near it."""
    rows = ledger.rows("SELECT name, state FROM vm WHERE retired_at IS NULL AND state NOT IN ('ok', 'unlimited')")
    return {name: State(state) for name, state in rows}


def bases(ledger: Ledger) -> dict[int, str]:
    """What this host and the book last agreed on of each VM that the book knows, as text; removed VMs too."""
    return {row[0]: row[1] for row in ledger.rows("SELECT id, book_base FROM vm WHERE book_base IS NOT NULL")}


def removed(ledger: Ledger) -> dict[int, tuple[str, datetime]]:
    """(name, when) of the removed VMs that the book may still have, by id."""
    rows = ledger.rows("SELECT id, name, retired_at FROM vm WHERE retired_at IS NOT NULL AND book_base IS NOT NULL")
    return {row[0]: (row[1], time_of(row[2])) for row in rows}

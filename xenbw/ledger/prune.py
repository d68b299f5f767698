"""Deleting old history from the ledger."""

from __future__ import annotations

from datetime import datetime

from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import to_text

# Rows deleted in one transaction: some 20 ms.
_AT_ONCE = 5000
# Transactions for readings at once: a minute brings one for each vif, and a host may have some thousand.
_TURNS = 5


def prune(ledger: Ledger, readings_before: datetime, history_before: datetime) -> None:
    """Delete raw readings, and history of bindings, blocks, events and sent messages, from before these times: some
    thousand rows in each transaction, so that other writers do not wait long. Usage stays."""
    old = to_text(history_before)
    for table, condition, before in (
        ("reading", "at < ?", to_text(readings_before)),
        ("event", "at < ?", old),
        ("block", "lifted_at < ?", old),
        ("outbox", "sent_at < ?", old),
        ("digest", "ended_at < ?", old),
        (
            "binding",
            "ended_at < ? AND id NOT IN (SELECT max(id) FROM binding GROUP BY vm_id)",
            to_text(min(history_before, readings_before)),
        ),
    ):
        key = "(at, binding_id)" if table == "reading" else "id"
        columns = key.strip("()")
        for _ in range(_TURNS if table == "reading" else 1):
            with ledger.transaction() as db:
                done = db.execute(
                    f"DELETE FROM {table} WHERE {key} IN"  # noqa: S608 (names of this function)
                    f" (SELECT {columns} FROM {table} WHERE {condition} LIMIT {_AT_ONCE})",
                    (before,),
                )
            if done.rowcount < _AT_ONCE:
                break

"""Blocks of VMs, in force and past."""

from __future__ import annotations

from datetime import datetime

from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import block_of, to_text
from xenbw.model import Block, Cause


def block(ledger: Ledger, vm_id: int, cause: Cause, reason: str, since: datetime, until: datetime | None) -> None:
    """Record a block in force. One that is already there keeps its beginning and takes the new cause and end."""
    with ledger.transaction() as db:
        db.execute(
            "INSERT INTO block (vm_id, cause, reason, since, until, rev) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (vm_id) WHERE lifted_at IS NULL DO UPDATE SET cause = excluded.cause,"
            " reason = excluded.reason, until = excluded.until, rev = excluded.rev",
            (vm_id, cause.value, reason, to_text(since), to_text(until), ledger.rev),
        )


def lift(ledger: Ledger, vm_id: int, at: datetime, reason: str) -> None:
    """Record the end of the VM's block, if it has one in force."""
    with ledger.transaction() as db:
        db.execute(
            "UPDATE block SET lifted_at = ?, lift_reason = ?, rev = ? WHERE vm_id = ? AND lifted_at IS NULL",
            (to_text(at), reason, ledger.rev, vm_id),
        )


def of_vm(ledger: Ledger, vm_id: int) -> list[Block]:
    """The VM's blocks, newest first."""
    return [block_of(row) for row in ledger.rows("SELECT * FROM block WHERE vm_id = ? ORDER BY id DESC", vm_id)]

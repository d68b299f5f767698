"""Which running VMs have traffic that this dom0 does not see, as the daemon last found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xenbw.ledger.ledger import Ledger


@dataclass(frozen=True)
class Unmetered:
    """wholly: none of its traffic is seen here. reason: why, in words that may hold another domain's name."""

    wholly: bool
    reason: str


def keep(ledger: Ledger, boot_id: str, found: Mapping[int, Unmetered]) -> None:
    """Put what was found, by VM id, in place of what was known. Raises LedgerError."""
    with ledger.transaction() as db:
        db.execute("DELETE FROM unmetered")
        db.executemany(
            "INSERT INTO unmetered VALUES (?, ?, ?, ?)",
            [(vm_id, boot_id, one.wholly, one.reason) for vm_id, one in found.items()],
        )


def known(ledger: Ledger, boot_id: str) -> dict[int, Unmetered]:
    """What was last found in this boot, by VM id. Of one before it no domain is left. Raises LedgerError."""
    rows = ledger.rows("SELECT vm_id, wholly, reason FROM unmetered WHERE boot_id = ?", boot_id)
    return {row["vm_id"]: Unmetered(bool(row["wholly"]), row["reason"]) for row in rows}

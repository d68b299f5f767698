"""Running VMs with traffic that this dom0 does not see, as the daemon last found them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xenbw.ledger.ledger import Ledger


@dataclass(frozen=True)
class Unmetered:
    """Why a VM is not metered. wholly: none of its traffic is seen here. reason: a text that may have another domain's
    name in it."""

    wholly: bool
    reason: str


def keep(ledger: Ledger, boot_id: str, found: Mapping[int, Unmetered]) -> None:
    """Replace the known unmetered VMs by those that were found, by VM id. Raises LedgerError."""
    with ledger.transaction() as db:
        db.execute("DELETE FROM unmetered")
        db.executemany(
            "INSERT INTO unmetered VALUES (?, ?, ?, ?)",
            [(vm_id, boot_id, one.wholly, one.reason) for vm_id, one in found.items()],
        )


def known(ledger: Ledger, boot_id: str) -> dict[int, Unmetered]:
    """The unmetered VMs that were last found in this boot, by VM id. Raises LedgerError."""
    rows = ledger.rows("SELECT vm_id, wholly, reason FROM unmetered WHERE boot_id = ?", boot_id)
    return {row["vm_id"]: Unmetered(bool(row["wholly"]), row["reason"]) for row in rows}

"""The VMs that used another MAC than Xen gave them, and until when others may remember it. One value of meta, which the
hook reads too (bindings.aliased)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from xenbw.ledger import bindings
from xenbw.ledger.ledger import Ledger

LONGEST = timedelta(days=1)
"""For so long after the last time others may remember another MAC, as the kernel's set has it (nft.DAY)."""


def known(ledger: Ledger, at: datetime) -> dict[int, datetime]:
    """VM's id -> until when others may remember its other MAC (UTC), of those that are remembered at this time. Raises
    LedgerError."""
    found = bindings.pairs(ledger.meta(bindings.ALIASED))
    return {vm_id: datetime.fromtimestamp(until, UTC) for vm_id, until in found.items() if until > at.timestamp()}


def keep(ledger: Ledger, until: Mapping[int, datetime]) -> None:
    """These are the VMs now. Raises LedgerError."""
    words = " ".join(f"{vm_id} {int(end.timestamp())}" for vm_id, end in sorted(until.items()))
    ledger.set_meta(bindings.ALIASED, words)


def settle(ledger: Ledger, at: datetime) -> None:
    """Forget VMs that are gone, before others get their ids; and have none last longer than it may from this time on:
    the clock may have been set back since. Raises LedgerError."""
    if found := known(ledger, at):
        vms = ledger.vms()
        right = {vm_id: min(until, at + LONGEST) for vm_id, until in found.items() if vm_id in vms}
        if right != found:
            keep(ledger, right)

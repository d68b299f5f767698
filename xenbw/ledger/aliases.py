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
    _write(ledger, {vm_id: int(end.timestamp()) for vm_id, end in until.items()})


def forget_gone(ledger: Ledger) -> None:
    """Forget VMs that are gone, before others get their ids. Raises LedgerError."""
    found, vms = bindings.pairs(ledger.meta(bindings.ALIASED)), ledger.vms()
    if found.keys() - vms.keys():
        _write(ledger, {vm_id: until for vm_id, until in found.items() if vm_id in vms})


def shorten(ledger: Ledger, at: datetime) -> None:
    """Have no VM be remembered for longer than LONGEST from now on: the clock may have been set back. at: a time that
    can be trusted. Raises LedgerError."""
    found = known(ledger, at)
    if any(until > at + LONGEST for until in found.values()):
        keep(ledger, {vm_id: min(until, at + LONGEST) for vm_id, until in found.items()})


def _write(ledger: Ledger, until: Mapping[int, int]) -> None:
    ledger.set_meta(bindings.ALIASED, " ".join(f"{vm_id} {end}" for vm_id, end in sorted(until.items())))

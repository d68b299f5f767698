"""Read the counters of xenbw, the kernel and xentop for a VM's live interfaces, as close together as possible."""

from __future__ import annotations

from xenbw.cli.accounts import freshen
from xenbw.cli.command import Context
from xenbw.clock import boot_id
from xenbw.errors import XenbwError
from xenbw.ledger import portions
from xenbw.ledger.ledger import Ledger
from xenbw.meters import counters
from xenbw.meters.counters import KernelMeter
from xenbw.model import VM, Counters
from xenbw.report.audit import Audit, Audited


def look(ledger: Ledger, vm: VM, context: Context) -> Audit:
    """Compare xenbw's counters of the VM's live interfaces with the kernel's and xentop's. Raises MeterError,
    LedgerError."""
    here = boot_id()
    stale = freshen(context)
    first, begun = dict(_ours(ledger, vm, here)), _counted_at(ledger)
    kernel = KernelMeter().read_all()
    xentop, no_xentop = _xentop(ledger, context)
    stale = freshen(context) or stale
    ended = _counted_at(ledger)
    found = tuple(
        Audited(binding, first[binding.id], after, kernel.get(binding.interface), xentop.get(binding.interface))
        for binding, after in portions.passed(ledger, vm.id, here)
        if binding.id in first
    )
    return Audit(found, ended - begun, stale, no_xentop)


def _ours(ledger: Ledger, vm: VM, here: str) -> list[tuple[int, Counters]]:
    return [(binding.id, passed) for binding, passed in portions.passed(ledger, vm.id, here)]


def _counted_at(ledger: Ledger) -> float:
    """When the daemon last committed, in seconds since boot."""
    alive = ledger.alive()
    return alive.elapsed if alive else 0.0


def _xentop(ledger: Ledger, context: Context) -> tuple[dict[str, Counters], str | None]:
    """xentop's counters by interface, and why there are none, or None."""
    names = {vm.id: vm.name for vm in ledger.vms().values()}
    owners = {
        binding.interface: (names[binding.vm_id], binding.ifindex)
        for binding in ledger.live_bindings().values()
        if binding.vm_id in names
    }
    try:
        return counters.look(context.run).assign(owners.get), None
    except XenbwError as error:
        return {}, error.message

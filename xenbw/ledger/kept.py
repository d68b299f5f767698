"""VMs that were blocked when the ledger was damaged or lost: they stay blocked until an admin decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from xenbw.ledger import blocklog
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.sieve import Sieve
from xenbw.model import Cause, State

REASON = "was blocked when the ledger was damaged or lost; xenbw lift releases it"


def keep(ledger: Ledger, sieve: Sieve, listed: Mapping[str, Iterable[str]], now: datetime) -> dict[int, str]:
    """Block VMs until an admin decides: blocked VMs that missing rows could release, and those of `listed` (name ->
    addresses) that the ledger does not show as released. Returns these VMs by id."""
    vms, blocks = ledger.vms(), ledger.active_blocks()
    wanted = {id_ for id_ in blocks if sieve.everyone or id_ in sieve.doubted} | sieve.blocked
    if sieve.lost_block:
        wanted |= {id_ for id_, vm in vms.items() if vm.state in (State.OVER, State.BLOCKED) and id_ not in blocks}
    found = {id_: vms[id_].name for id_ in wanted if id_ in vms}
    with ledger.transaction():
        for vm_id in found:
            _block(ledger, vm_id, now)
        for name, addresses in listed.items():
            vm = ledger.vm_named(name)
            if (vm is not None and (vm.id in blocks or vm.id in found)) or _released(ledger, name):
                continue
            known, vm = vm is not None, ledger.meet(name, now)
            if not known:
                ledger.set_vm(vm.id, ips=" ".join(addresses))
            _block(ledger, vm.id, now)
            found[vm.id] = name
    return found


def held(ledger: Ledger) -> dict[int, str]:
    """The VMs that an earlier damage keeps blocked, by id."""
    return {id_: vm.name for id_, vm in ledger.vms().items() if vm.blocked_reason == REASON}


def _block(ledger: Ledger, vm_id: int, now: datetime) -> None:
    if ledger.vms()[vm_id].blocked_reason is None:
        ledger.set_vm(vm_id, blocked_reason=REASON)
        blocklog.block(ledger, vm_id, Cause.ADMIN, REASON, now, None)
    elif vm_id not in ledger.active_blocks():
        blocklog.block(ledger, vm_id, Cause.ADMIN, ledger.vms()[vm_id].blocked_reason or REASON, now, None)


def _released(ledger: Ledger, name: str) -> bool:
    """Whether the ledger shows the last block of the VM of that name as ended, and its state agrees."""
    rows = ledger.rows(
        "SELECT lifted_at, state, retired_at FROM block JOIN vm ON vm.id = vm_id WHERE name = ?"
        " ORDER BY block.id DESC LIMIT 1",
        name,
    )
    return any(
        lifted_at is not None and (retired_at is not None or state not in (State.OVER, State.BLOCKED))
        for lifted_at, state, retired_at in rows
    )

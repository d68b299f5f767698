"""How many VMs there are, and how a VM is added and removed."""

from __future__ import annotations

from datetime import datetime

from xenbw.ledger import blocklog, viflog
from xenbw.ledger.bindings import NewBinding
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import binding_of, time_of, to_text
from xenbw.model import VM, State


def count(ledger: Ledger) -> int:
    """How many VMs the ledger has, removed ones too. Raises LedgerError."""
    return int(ledger.rows("SELECT count(*) FROM vm")[0][0])


def added(ledger: Ledger, vm: VM, at: datetime) -> dict[str, object]:
    """The columns of a VM that is added, or was before, beside its settings: it is judged as if it were new. While
    nobody had added it, nobody was told of the thresholds that it passed."""
    if vm.added_at is not None or vm.id in ledger.active_blocks():
        return {"added_at": vm.added_at or at}
    passed = {"state": State.OK} if vm.state in (State.WARNED, State.OVER) else {}
    return {"added_at": at, "threshold": None, **passed}


def removed_at(ledger: Ledger, name: str) -> datetime | None:
    """When the last VM of that name that was removed was removed; None if none was. Raises LedgerError."""
    (row,) = ledger.rows("SELECT max(retired_at) FROM vm WHERE name = ?", name)
    return None if row[0] is None else time_of(row[0])


def retire(ledger: Ledger, vm_id: int, at: datetime) -> None:
    """Take the VM's row out of service: a later VM of that name starts clean. The row's history stays.

    The interfaces of a VM that runs are counted on from where they are, under a new row that nobody added.
    """
    with ledger.transaction() as db:
        blocklog.lift(ledger, vm_id, at, "the VM was removed")
        (name,) = db.execute("SELECT name FROM vm WHERE id = ?", (vm_id,)).fetchone()
        live = [
            binding_of(row) for row in ledger.rows("SELECT * FROM binding WHERE vm_id = ? AND ended_at IS NULL", vm_id)
        ]
        db.execute("UPDATE vm SET retired_at = ?, rev = ? WHERE id = ?", (to_text(at), ledger.rev, vm_id))
        # The new rev makes the book learn that the VM was removed: its usage is not the next VM's of this name.
        db.execute(
            "UPDATE usage SET rev = ? WHERE vm_id = ?"
            " AND period_start = (SELECT period_start FROM vm WHERE id = usage.vm_id)",
            (ledger.rev, vm_id),
        )
        for binding in live:
            viflog.end(ledger, binding.id, at, "removed")
            new = NewBinding(
                name=name,
                boot_id=binding.boot_id,
                domid=binding.domid,
                devid=binding.devid,
                kind=binding.kind.value,
                ifindex=binding.ifindex,
                interface=binding.interface,
                mac=binding.mac,
                ips=" ".join(map(str, binding.ips)),
                bridge=binding.bridge,
                since=to_text(binding.last_at),
            )
            viflog.bind(ledger, at, new)

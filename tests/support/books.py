"""A ledger with VMs and interfaces, as a start for tests."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from xenbw.ledger import viflog
from xenbw.ledger.bindings import NewBinding
from xenbw.ledger.ledger import Ledger
from xenbw.model import VM, Binding

BOOT = "5c1b9a52-2f0e-4d0e-9f57-0c5b7e1c9a11"


def add_vm(ledger: Ledger, name: str, at: datetime, **facts: object) -> int:
    """A VM that the admin added, with its settings."""
    vm_id = ledger.meet(name, at).id
    ledger.set_vm(vm_id, added_at=at, **facts)
    return vm_id


def start_vif(ledger: Ledger, name: str, at: datetime, *, domid: int, devid: int = 0, **facts: Any) -> Binding:
    """An interface of the VM came up, as the hook records it; its ifindex follows from domid and devid."""
    known = {
        "boot_id": BOOT,
        "kind": "vif",
        "ifindex": 100 * domid + devid,
        "interface": f"vif{domid}.{devid}",
        **facts,
    }
    new = NewBinding(name=name, domid=domid, devid=devid, **known)
    binding_id = viflog.bind(ledger, at, new)
    return ledger.live_bindings()[binding_id]


def vm_of(ledger: Ledger, vm_id: int) -> VM:
    """The VM as the ledger has it now."""
    return ledger.vms()[vm_id]


def open_ledger(folder: Path, patience: float = 0.0) -> Ledger:
    """A new connection to the ledger in that folder, which is created if necessary."""
    return Ledger.open(folder / "ledger.db", create=True, patience=patience)

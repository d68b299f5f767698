"""How often VMs started, by their bindings."""

from __future__ import annotations

from dataclasses import dataclass

from xenbw.ledger.ledger import Ledger


@dataclass(frozen=True)
class Starts:
    """Starts of VMs since a binding. newest: the last binding's id; by_name: how often each VM started, which is the
    largest number of bindings of one of its interfaces."""

    newest: int
    by_name: dict[str, int]


def since(ledger: Ledger, binding_id: int) -> Starts:
    """The starts after that binding, however soon they ended. Raises LedgerError."""
    rows = ledger.rows(
        "SELECT name, max(times), max(newest) FROM"
        " (SELECT vm.name AS name, count(*) AS times, max(binding.id) AS newest FROM binding JOIN vm ON vm.id = vm_id"
        " WHERE binding.id > ? GROUP BY vm_id, devid, kind) GROUP BY name",
        binding_id,
    )
    return Starts(max((row[2] for row in rows), default=binding_id), {row[0]: row[1] for row in rows})


def newest(ledger: Ledger) -> int:
    """The last binding's id, or 0 without bindings. Raises LedgerError."""
    return int(ledger.rows("SELECT coalesce(max(id), 0) FROM binding")[0][0])

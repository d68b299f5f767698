"""Bindings, live and ended, as the daemon writes them and the screens read them. `bindings` has the statements that the
hook shares."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from xenbw.ledger import bindings
from xenbw.ledger.bindings import NewBinding
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import binding_of, ips_of, text_of, time_of, to_text
from xenbw.model import Address, Binding


def bind(ledger: Ledger, at: datetime, new: NewBinding) -> int:
    """Record that an interface belongs to a VM. Returns the binding's id. See bindings.bind."""
    with ledger.transaction() as db:
        return bindings.bind(db, new, at=text_of(at), rev=ledger.rev)


def unbind(ledger: Ledger, at: datetime, reason: str, *, boot_id: str, domid: int, devid: int, kind: str) -> None:
    """Record the end of an interface's life. See bindings.unbind."""
    with ledger.transaction() as db:
        bindings.unbind(
            db, boot_id=boot_id, domid=domid, devid=devid, kind=kind, at=text_of(at), reason=reason, rev=ledger.rev
        )


def end(ledger: Ledger, binding_id: int, at: datetime, reason: str) -> None:
    with ledger.transaction() as db:
        bindings.end(db, binding_id, text_of(at), reason, ledger.rev)


def rename(ledger: Ledger, binding_id: int, interface: str, bridge: str | None) -> None:
    """The binding's interface has another name, or is a port of another bridge."""
    with ledger.transaction() as db:
        db.execute(
            "UPDATE binding SET interface = ?, bridge = coalesce(?, bridge), rev = ? WHERE id = ?",
            (interface, bridge, ledger.rev, binding_id),
        )


def live_on(ledger: Ledger, boot_id: str, ifindex: int) -> list[Binding]:
    """The live binding of an interface of that boot; none or one."""
    rows = ledger.rows("SELECT * FROM binding WHERE boot_id = ? AND ifindex = ? AND ended_at IS NULL", boot_id, ifindex)
    return [binding_of(row) for row in rows]


def of_vm(ledger: Ledger, vm_id: int, since: datetime) -> list[Binding]:
    """The VM's bindings that lived after `since`, oldest first."""
    rows = ledger.rows(
        "SELECT * FROM binding WHERE vm_id = ? AND (ended_at IS NULL OR ended_at > ?) ORDER BY started_at, id",
        vm_id,
        to_text(since),
    )
    return [binding_of(row) for row in rows]


def of_domain(ledger: Ledger, boot_id: str, domid: int) -> list[Binding]:
    """The bindings of a domain of that boot, oldest first."""
    rows = ledger.rows("SELECT * FROM binding WHERE boot_id = ? AND domid = ? ORDER BY id", boot_id, domid)
    return [binding_of(row) for row in rows]


def latest(ledger: Ledger) -> list[Binding]:
    """The bindings of each VM's newest life, live or ended: its addresses are known from them."""
    rows = ledger.rows(
        "SELECT binding.* FROM binding JOIN (SELECT vm_id, max(id) AS id FROM binding GROUP BY vm_id) AS newest"
        " USING (vm_id) JOIN binding AS head ON head.id = newest.id"
        " WHERE binding.ended_at IS NULL OR (binding.boot_id = head.boot_id AND binding.domid = head.domid)"
    )
    return [binding_of(row) for row in rows]


def addresses_of(ledger: Ledger, vm_id: int) -> set[Address]:
    """The addresses of a VM's newest life."""
    rows = ledger.rows(
        "SELECT binding.ips FROM binding JOIN (SELECT boot_id, domid FROM binding WHERE vm_id = :vm ORDER BY id DESC"
        " LIMIT 1) AS head WHERE vm_id = :vm AND (ended_at IS NULL OR (binding.boot_id = head.boot_id AND"
        " binding.domid = head.domid))",
        vm=vm_id,
    )
    return {address for row in rows for address in ips_of(row)}


def ends(ledger: Ledger, binding_ids: Iterable[int]) -> dict[int, datetime]:
    """When these bindings ended, by their ids, without the live ones."""
    wanted = list(binding_ids)
    marks = ", ".join("?" * len(wanted))
    rows = ledger.rows(
        f"SELECT id, ended_at FROM binding WHERE ended_at IS NOT NULL AND id IN ({marks})",  # noqa: S608 (marks)
        *wanted,
    )
    return {row[0]: time_of(row[1]) for row in rows}


def ended(ledger: Ledger, boot_id: str, ifindexes: Iterable[int]) -> list[Binding]:
    """The newest binding of each of these interfaces of that boot, where it has ended."""
    found = []
    for ifindex in ifindexes:
        rows = ledger.rows(
            "SELECT * FROM binding WHERE boot_id = ? AND ifindex = ? ORDER BY id DESC LIMIT 1", boot_id, ifindex
        )
        found += [binding_of(row) for row in rows if row["ended_at"] is not None]
    return found

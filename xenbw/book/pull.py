"""What this host takes from the book: allowances that were edited elsewhere, and usage on other hosts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import ip_network
from typing import Any, Protocol

from xenbw import checks
from xenbw.book import policy
from xenbw.errors import UsageError
from xenbw.ledger import shared, vmlog
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import to_column
from xenbw.model import VM, ZERO, Allowance, Counters
from xenbw.units import format_time

Values = Mapping[str, Any]

_COLUMNS = {"rate_bits": "rate", "rate_in_bits": "rate_in"}  # fields whose names in the ledger are others
_LISTS: Mapping[str, Callable[[Any], Any]] = {
    "allow": checks.some_networks,
    "warn_percents": checks.thresholds,
    "mail": lambda value: checks.tenant_addresses(value) if value else None,
}
_TOLD = 100  # faults
_CLOCKS = timedelta(minutes=10)  # by which another clock may be ahead of ours


class Shelf(Protocol):
    """What `pull` needs of a Book: the documents of VMs, which all hosts write, and what other hosts counted."""

    def policies(self, names: list[str]) -> dict[str, dict[str, Any] | None]: ...

    def offer(self, name: str, give: Values, expected: Values, at: datetime) -> bool: ...

    def enter(self, name: str, values: Values, at: datetime) -> None: ...

    def retire(self, name: str, at: datetime) -> None: ...

    def elsewhere(self, periods: Mapping[str, datetime], now: datetime) -> tuple[dict[str, Counters], list[str]]: ...


def pull(ledger: Ledger, shelf: Shelf, default: Allowance, now: datetime) -> list[str]:
    """Merge this host's VMs with the book's. default: the allowance in [default]. Returns what is wrong in the book,
    for the admin. Raises BookError, LedgerError."""
    for vm_id, (name, at) in shared.removed(ledger).items():
        shelf.retire(name, at)
        ledger.set_vm(vm_id, book_base=None)
    vms = ledger.vms()
    documents, bases = shelf.policies([vm.name for vm in vms.values()]), shared.bases(ledger)
    faults: list[str] = []
    for vm in vms.values():
        document = documents.get(vm.name)
        if document is None and vm.name in documents:
            faults.append(f"the book: {vm.name}: too large, or cannot be read; the last good value holds")
            continue
        kept = json.loads(bases.get(vm.id, "{}"))
        retired_at = None if document is None else document.get("retired_at")
        if isinstance(retired_at, datetime):
            faults += _heed_removal(ledger, shelf, vm, kept, retired_at, now)
        elif document is not None:
            faults += _merge(ledger, shelf, default, vm, kept, document, now)
        elif vm.added_at is not None:
            _enter(ledger, shelf, vm, now)
    faults += _count_elsewhere(ledger, shelf, now)
    return [*faults[:_TOLD], *([f"the book: {len(faults) - _TOLD:,} more faults"] if faults[_TOLD:] else [])]


def _column(field: str) -> str:
    return _COLUMNS.get(field, field)


def _local(vm: VM) -> dict[str, Any]:
    # False stands for the default here, as in the book: `unlimited` is True or None.
    values = {field: getattr(vm, _column(field)) for field in policy.FIELDS}
    # An empty list of allowed networks is a value of its own. An empty reason blocks without words.
    return {field: value if value or value in ((), "") else None for field, value in values.items()}


def _text(values: Values) -> str:
    """Values that both sides agreed on, as the ledger keeps them."""
    return json.dumps({field: to_column(value) for field, value in values.items() if value is not None})


def _base(kept: Values) -> dict[str, Any]:
    until, percents = kept.get("lifted_until"), kept.get("warn_percents")
    allow, mail = kept.get("allow"), kept.get("mail")
    return {
        **{field: value for field, value in kept.items() if field in policy.FIELDS},
        "allow": None if allow is None else tuple(ip_network(word) for word in allow.split()),
        "mail": tuple(mail.split()) if mail else None,
        "warn_percents": None if percents is None else tuple(int(word) for word in percents.split()),
        "unlimited": bool(kept.get("unlimited")) or None,
        "lifted_until": datetime.fromisoformat(until) if until else None,
    }


def _heed_removal(ledger: Ledger, shelf: Shelf, vm: VM, kept: Values, retired_at: datetime, now: datetime) -> list[str]:
    """The book says that the VM was removed. It is entered again if it was added here after that: later than the date,
    or after this host had taken it out because of this date, which may be in the future."""
    if vm.added_at is not None:
        if vm.added_at > retired_at or kept.get("retired_at") == to_column(retired_at):
            _enter(ledger, shelf, vm, now)
            return []
        _take_out(ledger, vm, retired_at, now)
    if retired_at <= now + _CLOCKS:
        return []
    return [f"the book: {vm.name}: retired_at is in the future ({format_time(retired_at)}); the VM is removed already"]


def _take_out(ledger: Ledger, vm: VM, retired_at: datetime, now: datetime) -> None:
    """The VM was removed on another host: here it becomes a VM that nobody added."""
    with ledger.transaction():
        nothing = {_column(field): None for field in policy.FIELDS}
        base = json.dumps({"retired_at": to_column(retired_at)})
        ledger.set_vm(vm.id, **{**nothing, "unlimited": False}, added_at=None, book_base=base)
        ledger.record(now, "removed", f"{vm.name}: removed in the book; it is only metered from now on", vm.id)


def _enter(ledger: Ledger, shelf: Shelf, vm: VM, now: datetime) -> None:
    """The book does not have the VM, or no longer: enter it with this host's values."""
    shelf.enter(vm.name, _local(vm), now)
    ledger.set_vm(vm.id, book_base=_text(_local(vm)))


def _merge(
    ledger: Ledger, shelf: Shelf, default: Allowance, vm: VM, kept: Values, document: dict[str, Any], now: datetime
) -> list[str]:
    local, base = _local(vm), _base(kept)
    found = policy.merge(local, base, {field: _read(field, value) for field, value in document.items()}, default)
    agreed = dict(found.base)
    # Compared as the document has them, since the same network can be written in several ways.
    still = {field: None if base.get(field) is None else document[field] for field in found.give}
    if found.give and not shelf.offer(vm.name, found.give, still, now):
        # Another client changed the document first; the next round takes that over.
        agreed |= {field: base.get(field) for field in found.give}
    if found.take or _text(agreed) != _text(base) or vm.added_at is None:
        taken = {_column(field): value for field, value in found.take.items()}
        if "unlimited" in taken:
            taken["unlimited"] = bool(taken["unlimited"])
        with ledger.transaction():
            ledger.set_vm(vm.id, **taken, **vmlog.added(ledger, vm, now), book_base=_text(agreed))
            if found.lost:
                ledger.record(now, "conflict", f"{vm.name}: {_told(found)}", vm.id)
    return [f"the book: {vm.name}: {text}; the last good value holds" for text in found.faults]


def _read(field: str, value: Any) -> Any:
    """A value of the book as the ledger has it: a whole double, as JavaScript panels write numbers, becomes an int;
    false becomes the default; a list becomes networks, thresholds or mail addresses if it can."""
    if field in _LISTS and isinstance(value, list):
        with suppress(UsageError):
            return _LISTS[field]([_number(item) for item in value])
    return None if value is False else _number(value)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _told(found: policy.Merge) -> str:
    shown = ((field, _shown(mine), _shown(found.take[field])) for field, mine in found.lost.items())
    return "; ".join(
        f"{field} was set to {mine} here and to {theirs} in the book; the book wins" for field, mine, theirs in shown
    )


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value) or "nothing"
    return "the default" if value is None else str(value)


def _count_elsewhere(ledger: Ledger, shelf: Shelf, now: datetime) -> list[str]:
    known, vms = shared.elsewhere(ledger), ledger.vms()
    periods = {vm.name: vm.period_start for vm in vms.values() if vm.period_start is not None}
    found, faults = shelf.elsewhere(periods, now)
    for vm in vms.values():
        used, (start, before) = found.get(vm.name, ZERO), known.get(vm.id, (vm.period_start, ZERO))
        if faults and start == vm.period_start:
            # What is left out may be the usage by which the VM is blocked.
            used = Counters(*map(max, used, before))
        # A zero gets a row only if there was a row before.
        if vm.period_start and (start, before) != (vm.period_start, used):
            shared.set_elsewhere(ledger, vm.id, vm.period_start, used)
    return faults

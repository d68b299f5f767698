"""The present rates of all VMs: what `xenbw top` shows, as rows, as a frame of a terminal, as a table and as JSON.

All functions here are pure, so that a frame can be drawn again for another size of the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from xenbw.meters.watch import Look, Passed, passed
from xenbw.model import ZERO, Amounts, Binding, Life, State
from xenbw.quota import used_bytes
from xenbw.report.account import Account
from xenbw.units import format_time


@dataclass(frozen=True)
class Cast:
    """What the ledger says of the vifs. accounts: by VM id. bindings: the live ones of this boot. note: why this may be
    old or missing, or ""."""

    accounts: Mapping[int, Account] = field(default_factory=dict)
    bindings: Mapping[Life, Binding] = field(default_factory=dict)
    note: str = ""


class Rates(NamedTuple):
    """Per second: bits and packets that passed to the guest (in) and from it (out), that a block refused, and that a
    bridge flooded to the vif."""

    in_bits: int
    out_bits: int
    in_packets: int
    out_packets: int
    refused_in_bits: int
    refused_out_bits: int
    refused_in_packets: int
    refused_out_packets: int
    flood_bits: int
    flood_packets: int

    @property
    def packets(self) -> int:
        return self.in_packets + self.out_packets

    @property
    def refused_bits(self) -> int:
        return self.refused_in_bits + self.refused_out_bits


class VifRow(NamedTuple):
    """One vif."""

    interface: str
    life: Life
    rates: Rates


@dataclass(frozen=True)
class VmRow:
    """One VM with its vifs. account: None for the row of all vifs whose VM is not known."""

    account: Account | None
    rates: Rates
    used_bytes: int
    vifs: tuple[VifRow, ...]

    @property
    def name(self) -> str:
        return "" if self.account is None else self.account.vm.name

    @property
    def state(self) -> State | None:
        return None if self.account is None else self.account.standing.state


@dataclass(frozen=True)
class Shot:
    """All VMs with vifs on this host, and what passed on these in the seconds up to `at`. meter: whose counters were
    read, ours (nft) or the kernel's. note: a line for the admin, or ""."""

    host: str
    at: datetime
    seconds: float
    meter: str
    rows: tuple[VmRow, ...]
    total: Rates
    note: str = ""


def shot(before: Look, after: Look, cast: Cast, host: str, at: datetime) -> Shot:
    """What passed between two looks, by VM. at: the time of the second look."""
    seconds = after.at - before.at
    moved = passed(before, after)
    by_vm: dict[int | None, list[Life]] = {}
    for life in sorted(after.vifs):
        binding = cast.bindings.get(life)
        vm_id = binding.vm_id if binding is not None and binding.vm_id in cast.accounts else None
        by_vm.setdefault(vm_id, []).append(life)
    rows, total = [], Passed()
    for vm_id, lives in by_vm.items():
        account = None if vm_id is None else cast.accounts[vm_id]
        amounts = [moved.get(life, Passed()) for life in lives]
        vifs = tuple(
            VifRow(after.vifs[life].interface, life, _rates(amount, seconds))
            for life, amount in zip(lives, amounts, strict=True)
        )
        together = _sum(amounts)
        total = total.plus(together)
        used = 0 if account is None else _used(account, lives, after, cast.bindings)
        rows.append(VmRow(account, _rates(together, seconds), used, vifs))
    own = any(seen.sizes.own is not None for seen in after.vifs.values())
    note = cast.note or after.problem
    return Shot(host, at, seconds, "nft" if own else "kernel", tuple(rows), _rates(total, seconds), note)


def _sum(amounts: Sequence[Passed]) -> Passed:
    total = Passed()
    for amount in amounts:
        total = total.plus(amount)
    return total


def _rates(amount: Passed, seconds: float) -> Rates:
    sizes = Amounts(*(round(size * 8 / seconds) if seconds > 0 else 0 for size in amount.sizes))
    packets = Amounts(*(round(number / seconds) if seconds > 0 else 0 for number in amount.packets))
    return Rates(
        *sizes.usage,
        *packets.usage,
        sizes.refused_in_bytes,
        sizes.refused_out_bytes,
        packets.refused_in_bytes,
        packets.refused_out_bytes,
        sizes.flood_bytes,
        packets.flood_bytes,
    )


def _used(account: Account, lives: Sequence[Life], look: Look, bindings: Mapping[Life, Binding]) -> int:
    """What the allowance counts: the ledger's usage, and what our counters have beyond its last reading of them."""
    more = ZERO
    for life in lives:
        own, last = look.vifs[life].sizes.own, bindings[life].mark.own
        grown = own.since(last) if own is not None and last is not None else None
        if grown is not None:
            more = more.plus(grown.usage)
    return used_bytes(account.allowance.count, account.usage.plus(more))


# How rows are sorted: by name, or the largest first.
_NUMBERS: Mapping[str, Callable[[Rates], int]] = {
    "in": lambda rates: rates.in_bits,
    "out": lambda rates: rates.out_bits,
    "pps": lambda rates: rates.packets,
    "refused": lambda rates: rates.refused_bits,
}
SORTS = (*_NUMBERS, "used", "name")


def ordered(rows: Sequence[VmRow], sort: str, *, reverse: bool = False) -> list[VmRow]:
    """The rows by name, or by a number, the largest first; those with equal numbers by name. reverse: the other way
    round."""
    by_name = sorted(rows, key=lambda row: (row.account is None, row.name))
    if sort == "used":
        by_name.sort(key=lambda row: -row.used_bytes)
    elif sort in _NUMBERS:
        by_name.sort(key=lambda row: -_NUMBERS[sort](row.rates))
    return by_name[::-1] if reverse else by_name


def ordered_vifs(row: VmRow, sort: str, *, reverse: bool = False) -> Iterator[VifRow]:
    """The VM's vifs in the same order; `used` and `name` order them by domain and device number."""
    vifs = list(row.vifs)
    if sort in _NUMBERS:
        vifs.sort(key=lambda vif: -_NUMBERS[sort](vif.rates))
    yield from vifs[::-1] if reverse else vifs


def document(found: Shot, rows: Sequence[VmRow]) -> dict[str, Any]:
    """A shot as JSON: all rates are per second. name and state are null for vifs whose VM is not known."""
    return {
        "host": found.host,
        "at": format_time(found.at),
        "seconds": round(found.seconds, 3),
        "meter": found.meter,
        "note": found.note or None,
        "total": found.total._asdict(),
        "vms": [_vm_document(row) for row in rows],
    }


def _vm_document(row: VmRow) -> dict[str, Any]:
    known = row.account is not None
    return {
        "name": row.name if known else None,
        "state": row.state,
        "used_bytes": row.used_bytes if known else None,
        "limit_bytes": None if row.account is None else row.account.allowance.limit_bytes,
        **row.rates._asdict(),
        "vifs": [
            {"interface": vif.interface, "domid": vif.life.domid, "devid": vif.life.devid, **vif.rates._asdict()}
            for vif in row.vifs
        ],
    }

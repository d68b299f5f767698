"""xenbw explain: show where each byte of a VM's usage came from."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from xenbw.blocks.block import Line as Limit
from xenbw.blocks.tripwire_text import quota_of
from xenbw.cli.accounts import accounts, freshen, roster
from xenbw.cli.auditing import look
from xenbw.cli.command import Command, Context
from xenbw.cli.names import find, name_argument
from xenbw.cli.terminal import say, warn
from xenbw.enforce import desired
from xenbw.errors import MeterError
from xenbw.judge.roster import Roster
from xenbw.ledger import aliases, eventlog
from xenbw.ledger.digests import KEPT
from xenbw.model import Amounts, Counters, Digest, State
from xenbw.nft.objects import Quota
from xenbw.nft.pipe import hand_to_nft
from xenbw.nft.quotas import Quotas
from xenbw.nft.tables import Tables
from xenbw.report.account import Account
from xenbw.report.audit import Audit, Audited, drift, percent, reason
from xenbw.report.document import dump, explanation
from xenbw.report.explanation import Line, explain, meter_of, total
from xenbw.report.table import Column, facts, local_time, render
from xenbw.report.tripwires import Held
from xenbw.text import printable
from xenbw.units import format_size

_PARTS = (
    *map(Column, ("FROM", "TO", "DOMID", "INTERFACE", "ENDED", "METER")),
    *(Column(title, right=True) for title in ("IN", "OUT", "FLOOD", "REFUSED")),
)
_AUDIT = (
    *map(Column, ("INTERFACE", "COUNTED BY")),
    *(Column(title, right=True) for title in ("IN", "OUT", "DRIFT IN", "DRIFT OUT")),
)
_GAP = "-"


@dataclass(frozen=True)
class _Explained:
    """The explanation to print. gaps: (time, text) of each loss of counters while an interface of the VM was there.
    tripwires: what the kernel holds of the allowance. other_mac_until: None if the VM used only its own MAC."""

    account: Account
    lines: Sequence[Line]
    gaps: Sequence[tuple[datetime, str]]
    tripwires: Sequence[Held]
    other_mac_until: datetime | None


def arguments(parser: ArgumentParser) -> None:
    name_argument(parser)
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.add_argument("--audit", action="store_true", help="compare with the counters of the kernel and of xentop")


def run(options: Namespace, context: Context) -> int:
    stale = freshen(context)
    with context.ledger() as ledger:
        with ledger.snapshot():
            vm = find(ledger, options.name)
            vms = roster(ledger, context)
            account = accounts(ledger, vms)[vm.id]
            elsewhere, usage = vms.entries[vm.id].elsewhere, vms.usage()
            lines = explain(vms.lives(vm.id), usage[vm.id], elsewhere, vms.earlier(vm.id))
            gaps = eventlog.of_kind(ledger, "meter-gap", account.period.start)
            tripwires = _tripwires(vms, usage, vm.id)
            other = aliases.known(ledger, context.moment(ledger).at).get(vm.id)
            found = _Explained(account, lines, [gap for gap in gaps if _concerns(gap[0], lines)], tripwires, other)
        audit = look(ledger, vm, context) if options.audit else None
    if options.json:
        document = explanation(found.account, found.lines, found.gaps, audit, found.tripwires, found.other_mac_until)
        say(dump(document))
    else:
        say("\n\n".join(_text(found, audit, context.settings.period.timezone)))
    if stale:
        warn(f"note: {stale}")
    return 0


def _tripwires(vms: Roster, usage: Mapping[int, Counters], vm_id: int) -> list[Held]:
    """What the kernel holds of the VM's allowance; nothing where it cannot be asked, or has no tripwires."""
    throttled = [vm_id] if vms.entries[vm_id].vm.state is State.THROTTLED else []
    lines = [line for line in desired.lines(vms, usage, throttled, metered=True) if line.vm_id == vm_id]
    try:
        with closing(Tables(hand_to_nft)) as tables:
            quotas = Quotas(tables).now()
    except MeterError:
        return []
    return [one for one in _held(lines, quotas) if one.left_bytes is not None]


def _held(lines: Iterable[Limit], quotas: Mapping[str, Quota]) -> list[Held]:
    """The lines, with the kernel's quota objects by name."""
    found = []
    for line in lines:
        quota, limit = quotas.get(quota_of(*line[:3])), line.limit if line.limit is not None else line.used
        left = None if quota is None else quota.left
        found.append(Held(line.kind, line.counted, left, max(0, limit - line.used)))
    return found


def _concerns(at: datetime, lines: Iterable[Line]) -> bool:
    """Whether one of the interfaces existed at that time."""
    lived = (line.digest or line.binding for line in lines)
    return any(life.started_at <= at and (life.ended_at is None or at <= life.ended_at) for life in lived if life)


def _text(found: _Explained, audit: Audit | None, zone: ZoneInfo) -> Iterator[str]:
    """The explanation as text for a screen. Sizes are in bytes, so that a reader can add them up."""
    account, lines = found.account, found.lines
    unseen = ", as far as it was metered" if account.unmetered else ""
    yield facts(
        [
            ("VM", account.vm.name),
            ("state", f"{account.standing.state}: {account.standing.reason}"),
            ("period", f"{local_time(account.period.start, zone)} to {local_time(account.period.end, zone)}"),
            ("used", f"{format_size(account.used_bytes)} (counted: {account.allowance.count}){unseen}"),
        ]
    )
    if found.tripwires:
        yield "\n".join(map(_tripwire, found.tripwires))
    rows = [_part(line, zone) for line in lines]
    rows.append(("TOTAL", *[""] * 5, *map(_bytes, total(lines)), "", ""))
    yield render(_PARTS, rows)
    notes = list(_notes(account, lines))
    if found.other_mac_until:
        until = local_time(found.other_mac_until, zone)
        notes.append(f"until {until} all that reaches its interfaces is usage: it used another MAC than Xen gave it")
    if notes:
        yield "\n".join(notes)
    if found.gaps:
        gaps = [f"  {local_time(at, zone)}  {text}" for at, text in found.gaps]
        yield "\n".join(["gaps in this host's nft counters while the interfaces existed", *map(printable, gaps)])
    if audit is not None:
        yield _audited(audit)


_WAYS = {"total": "in and out", "in": "in", "out": "out"}
_PAST = {"trip": "refused", "slow": "throttled"}


def _tripwire(one: Held) -> str:
    """What the kernel holds, in a sentence."""
    text = f"the kernel lets {_bytes(one.left_bytes or 0)} more bytes pass ({_WAYS[one.counted]})"
    text += f", and what is past them is {_PAST[one.kind]}; by the ledger {_bytes(one.ledger_left_bytes)} are left"
    return text + (f" ({one.apart_bytes:+,} in the kernel)" if one.apart_bytes else "")


def _bytes(size: int) -> str:
    return f"{size:,}"


def _part(line: Line, zone: ZoneInfo) -> tuple[str, ...]:
    if line.digest is not None:
        return _earlier(line.digest, zone)
    if line.binding is None:
        return "", "", "", "(see below)", "", "", *map(_bytes, line.usage), "", ""
    binding = line.binding
    return (
        local_time(binding.started_at, zone),
        "" if binding.ended_at is None else local_time(binding.ended_at, zone),
        str(binding.domid),
        binding.interface,
        binding.end_reason or "",
        meter_of(binding),
        *_amounts(binding.counted._replace(in_bytes=line.usage.in_bytes, out_bytes=line.usage.out_bytes)),
    )


def _earlier(digest: Digest, zone: ZoneInfo) -> tuple[str, ...]:
    return (
        local_time(digest.started_at, zone),
        local_time(digest.ended_at, zone),
        "",
        f"({digest.lives:,} lives)",
        digest.end_reason,
        "",
        *_amounts(digest.counted),
    )


def _amounts(counted: Amounts) -> tuple[str, ...]:
    return (
        *map(_bytes, counted.usage),
        _bytes(counted.flood_bytes),
        _bytes(counted.refused_in_bytes + counted.refused_out_bytes),
    )


def _notes(account: Account, lines: Iterable[Line]) -> Iterator[str]:
    for line in lines:
        if line.why:
            yield f"{_sum(line.usage)}: {line.why}"
    earlier = sum(line.digest.lives for line in lines if line.digest)
    if earlier:
        yield f"{earlier:,} earlier lives are summed up in one line; the latest {KEPT} of a month have a line each"
    lived = [line.digest or line.binding for line in lines]
    if any(life and life.started_at < account.period.start and any(life.counted[2:]) for life in lived):
        yield "FLOOD and REFUSED, which are not usage, are of an interface's whole life, also before this period"


def _sum(usage: Counters) -> str:
    return f"{_bytes(usage.in_bytes)} in and {_bytes(usage.out_bytes)} out"


def _audited(audit: Audit) -> str:
    if not audit.interfaces:
        return "audit: the VM has no interface to look at"
    rows = [row for one in audit.interfaces for row in _compared(one)]
    lines = [render(_AUDIT, rows), "", f"xenbw's were read {audit.apart:.3f} s apart, before and after the others"]
    lines += [f"{printable(one.binding.interface)}: {why}" for one in audit.interfaces if (why := reason(one))]
    if audit.stale:
        lines.append(f"xenbw's counters are old, so the difference is no drift: {printable(audit.stale)}")
    if audit.no_xentop:
        lines.append(f"no counters of xentop: {printable(audit.no_xentop)}")
    return "\n".join(lines)


def _compared(one: Audited) -> Iterator[tuple[str, ...]]:
    yield one.binding.interface, "xenbw", *map(_bytes, one.after), "", ""
    for who, counted in (("kernel", one.kernel), ("xentop", one.xentop)):
        if counted is None:
            yield "", who, *[_GAP] * 4
        else:
            more = drift(one, counted)
            parts = (f"{_bytes(much)} ({percent(much, of)} %)" for much, of in zip(more, counted, strict=True))
            yield "", who, *map(_bytes, counted), *parts


COMMAND = Command(arguments, run)

"""The JSON documents. Their keys are an interface for panels and scripts. Bytes are integers, times are RFC 3339 in
UTC, missing values are null."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from xenbw.model import Binding, Block, Counters, Digest
from xenbw.quota import used_bytes
from xenbw.report.account import Account
from xenbw.report.audit import Audit, Audited, drift, percent, reason
from xenbw.report.explanation import Line, meter_of
from xenbw.report.period import PeriodReport, Values
from xenbw.report.tripwires import Held
from xenbw.units import format_time

Document = dict[str, Any]
History = tuple[datetime, Counters, int]
"""(period start, usage, bytes of it whose hours are estimated), as the ledger gives it."""
Event = tuple[datetime, str, str]
"""(time, kind, text), as the ledger gives it."""


# The keys of an interface, for a part of the usage that belongs to no interface on this host.
_NO_BINDING: Document = dict.fromkeys(
    "domid devid interface mac ips bridge started_at ended_at end_reason in_bytes out_bytes"
    " flood_bytes refused_in_bytes refused_out_bytes meter".split()
)


def listing(host: str, at: datetime, accounts: Iterable[Account]) -> Document:
    """Every VM of a host."""
    return {"host": host, "generated_at": format_time(at), "vms": [account_document(account) for account in accounts]}


def account_document(account: Account) -> Document:
    """One VM."""
    return {
        "name": account.vm.name,
        "running": account.running,
        "state": account.standing.state.value,
        "reason": account.standing.reason,
        "period_start": format_time(account.period.start),
        "period_end": format_time(account.period.end),
        "in_bytes": account.usage.in_bytes,
        "out_bytes": account.usage.out_bytes,
        "used_bytes": account.used_bytes,
        "limit_bytes": account.allowance.limit_bytes,
        "hard_limit_bytes": account.allowance.hard_limit_bytes,
        "rate_bits": account.allowance.rate,
        "rate_in_bits": account.allowance.rate_in,
        "count": account.allowance.count.value,
        "percent": account.percent,
    }


def detail(
    account: Account,
    blocks: Iterable[Block],
    bindings: Iterable[Binding],
    history: Sequence[History],
    earlier: Iterable[Digest] = (),
    events: Iterable[Event] = (),
) -> Document:
    """One VM with its blocks, its latest events, the bindings of its present period and its usage per period, newest
    first."""
    return {
        **account_document(account),
        "allow": None if account.vm.allow is None else [str(network) for network in account.vm.allow],
        "mail": list(account.vm.mail or ()),
        "events": [{"at": format_time(at), "kind": kind, "text": text} for at, kind, text in events],
        "blocks": [_block(block) for block in blocks],
        "earlier_lives": [_earlier(digest) for digest in earlier],
        "bindings": [_binding(binding) for binding in bindings],
        "history": [_period(account, *period) for period in history],
    }


def explanation(
    account: Account,
    lines: Iterable[Line],
    gaps: Iterable[tuple[datetime, str]],
    audit: Audit | None,
    tripwires: Iterable[Held],
    other_mac_until: datetime | None,
) -> Document:
    """One VM with the parts of its usage, which add up to the total, the gaps in xenbw's counters, what the kernel has
    left of its allowance, and until when nothing that reaches it is flood, as it used another MAC."""
    return {
        **account_document(account),
        "parts": [_part(line) for line in lines],
        "gaps": [{"at": format_time(at), "text": text} for at, text in gaps],
        "audit": None if audit is None else _audit(audit),
        "tripwires": [{**one._asdict(), "apart_bytes": one.apart_bytes} for one in tripwires],
        "other_mac_until": None if other_mac_until is None else format_time(other_mac_until),
    }


def period_documents(host: str, at: datetime, reports: Iterable[PeriodReport], zone: ZoneInfo) -> Document:
    """The period of each VM in a report, with its days and hours."""
    return {
        "host": host,
        "generated_at": format_time(at),
        "timezone": zone.key,
        "vms": [_period_document(report) for report in reports],
    }


def _period_document(report: PeriodReport) -> Document:
    counted, found = report.counted, report.percentile
    return {
        "name": report.name,
        "period_start": format_time(report.period.start),
        "period_end": format_time(report.period.end),
        "in_bytes": report.usage.in_bytes,
        "out_bytes": report.usage.out_bytes,
        "used_bytes": report.used_bytes,
        "limit_bytes": report.allowance.limit_bytes,
        "count": report.allowance.count.value,
        "percent": report.percent,
        "flood_bytes": counted.flood_bytes,
        "refused_in_bytes": counted.refused_in_bytes,
        "refused_out_bytes": counted.refused_out_bytes,
        "percentile_95": None
        if found is None
        else {**found.rates._asdict(), "value_seconds": int(found.span), "values": found.count},
        "days": _values(report.days),
        "hours": _values(report.hours),
        "top_days": _values(report.top(report.days)),
        "top_hours": _values(report.top(report.hours)),
    }


def _values(values: Values) -> list[Document]:
    return [{"start": format_time(start), **amounts._asdict()} for start, amounts in values]


def dump(document: Document) -> str:
    """The document as ASCII text, so that no name in it can move a terminal's cursor."""
    return json.dumps(document, indent=2)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


def _block(block: Block) -> Document:
    return {
        "cause": block.cause.value,
        "reason": block.reason,
        "since": format_time(block.since),
        "until": _time(block.until),
        "lifted_at": _time(block.lifted_at),
        "lift_reason": block.lift_reason,
    }


def _binding(binding: Binding) -> Document:
    return {
        "domid": binding.domid,
        "devid": binding.devid,
        "interface": binding.interface,
        "mac": binding.mac,
        "ips": [str(address) for address in binding.ips],
        "bridge": binding.bridge,
        "started_at": format_time(binding.started_at),
        "ended_at": _time(binding.ended_at),
        "end_reason": binding.end_reason,
        "in_bytes": binding.counted.in_bytes,
        "out_bytes": binding.counted.out_bytes,
        "flood_bytes": binding.counted.flood_bytes,
        "refused_in_bytes": binding.counted.refused_in_bytes,
        "refused_out_bytes": binding.counted.refused_out_bytes,
        "meter": meter_of(binding),
    }


def _earlier(digest: Digest) -> Document:
    """Lives that are summed up."""
    return {
        "lives": digest.lives,
        "ips": [str(address) for address in digest.ips],
        "started_at": format_time(digest.started_at),
        "ended_at": format_time(digest.ended_at),
        "end_reason": digest.end_reason,
        **digest.counted._asdict(),
    }


def _part(line: Line) -> Document:
    """A part of the usage: of one interface, of several summed-up lives, or of neither, with the reason why. `in_bytes`
    and `out_bytes` are those of the period."""
    lives = None
    if line.binding is not None:
        facts, lives = _binding(line.binding), 1
    elif line.digest is not None:
        facts = {**_NO_BINDING, **_earlier(line.digest)}
        lives = facts.pop("lives")
    else:
        facts = _NO_BINDING
    return {
        "reason": line.why or None,
        "lives": lives,
        **facts,
        "in_bytes": line.usage.in_bytes,
        "out_bytes": line.usage.out_bytes,
    }


def _audit(audit: Audit) -> Document:
    return {
        "seconds_apart": round(audit.apart, 3),
        "stale": audit.stale,
        "no_xentop": audit.no_xentop,
        "interfaces": [
            {
                "interface": one.binding.interface,
                "domid": one.binding.domid,
                "devid": one.binding.devid,
                "in_bytes": one.after.in_bytes,
                "out_bytes": one.after.out_bytes,
                "kernel": _other(one, one.kernel),
                "xentop": _other(one, one.xentop),
                "reason": reason(one),
            }
            for one in audit.interfaces
        ],
    }


def _other(audited: Audited, counted: Counters | None) -> Document | None:
    if counted is None:
        return None
    more = drift(audited, counted)
    return {
        "in_bytes": counted.in_bytes,
        "out_bytes": counted.out_bytes,
        "drift_in_bytes": more.in_bytes,
        "drift_out_bytes": more.out_bytes,
        "drift_in_percent": percent(more.in_bytes, counted.in_bytes),
        "drift_out_percent": percent(more.out_bytes, counted.out_bytes),
    }


def _period(account: Account, start: datetime, usage: Counters, divided_bytes: int) -> Document:
    return {
        "period_start": format_time(start),
        "in_bytes": usage.in_bytes,
        "out_bytes": usage.out_bytes,
        "used_bytes": used_bytes(account.allowance.count, usage),
        "divided_bytes": divided_bytes,
    }

"""The JSON documents. Panels and scripts build on their keys: bytes are integers, times RFC 3339 UTC, absent null."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from xenbw.model import Binding, Block, Counters
from xenbw.quota import used_bytes
from xenbw.report.account import Account
from xenbw.units import format_time

Document = dict[str, Any]
History = tuple[datetime, Counters, int]
"""(period start, usage, bytes of it that were divided by time), as the ledger gives it."""


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
        "count": account.allowance.count.value,
        "percent": account.percent,
    }


def detail(
    account: Account, blocks: Iterable[Block], bindings: Iterable[Binding], history: Sequence[History]
) -> Document:
    """One VM with its blocks, the bindings of its present period and its usage per period, newest first."""
    return {
        **account_document(account),
        "blocks": [_block(block) for block in blocks],
        "bindings": [_binding(binding) for binding in bindings],
        "history": [_period(account, *period) for period in history],
    }


def dump(document: Document) -> str:
    """The document as text: ASCII only, so that no name in it can move a terminal's cursor."""
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
    }


def _period(account: Account, start: datetime, usage: Counters, divided_bytes: int) -> Document:
    return {
        "period_start": format_time(start),
        "in_bytes": usage.in_bytes,
        "out_bytes": usage.out_bytes,
        "used_bytes": used_bytes(account.allowance.count, usage),
        "divided_bytes": divided_bytes,
    }

"""xenbw lift: end the block or the throttle of a VM."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import replace
from zoneinfo import ZoneInfo

from xenbw import quota
from xenbw.cli.accounts import roster
from xenbw.cli.apply import apply
from xenbw.cli.command import Command, Context
from xenbw.cli.names import find, name_argument
from xenbw.cli.terminal import say
from xenbw.model import ZERO, Cause, Entry, State
from xenbw.quota import Standing
from xenbw.report.table import local_time
from xenbw.text import printable


def arguments(parser: ArgumentParser) -> None:
    name_argument(parser)


def run(options: Namespace, context: Context) -> int:
    with context.ledger() as ledger:
        vm = find(ledger, options.name)
        vms = roster(ledger, context)
        entry = vms.entries[vm.id]
        usage = entry.used(vms.usage().get(vm.id, ZERO))
        standing = quota.stand(vm, entry.allowance, entry.enforced, usage, entry.period)
        columns: dict[str, object] = {}
        if standing.block is Cause.ADMIN:
            columns["blocked_reason"] = None
        # A VM that the admin blocked may be over its allowance too. Its traffic is to pass then as well.
        without = quota.stand(replace(vm, blocked_reason=None), entry.allowance, entry.enforced, usage, entry.period)
        held = standing.block is not None or standing.throttle is not None
        if held and (without.block is Cause.QUOTA or without.throttle is not None):
            columns["lifted_until"] = entry.period.end
        if columns:
            ledger.set_vm(vm.id, **columns)
        say(printable(f"{vm.name}: {_told(columns, standing, entry, context.settings.period.timezone)}"))
        if columns or vm.id in ledger.active_blocks() or vm.state is State.THROTTLED:
            apply(ledger, context)
    return 0


def _told(columns: Mapping[str, object], standing: Standing, entry: Entry, zone: ZoneInfo) -> str:
    if not columns:
        return f"not blocked ({standing.state}: {standing.reason})"
    if "lifted_until" in columns:
        return f"lifted until its period ends, {local_time(entry.period.end, zone)}"
    return "lifted"


COMMAND = Command(arguments, run)

"""xenbw list: show every VM with its usage."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from xenbw.cli.accounts import accounts, freshen, roster
from xenbw.cli.command import Command, Context
from xenbw.cli.terminal import say, warn
from xenbw.config import Settings
from xenbw.report.account import Account
from xenbw.report.document import dump, listing
from xenbw.report.table import Column, local_time, render, whole
from xenbw.units import format_size

_COLUMNS = (
    Column("VM"),
    Column("STATE"),
    Column("RUNNING"),
    Column("IN", right=True),
    Column("OUT", right=True),
    Column("USED", right=True),
    Column("LIMIT", right=True),
    Column("%", right=True),
    Column("PERIOD ENDS"),
)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(options: Namespace, context: Context) -> int:
    stale = freshen(context)
    with context.ledger() as ledger:
        found = list(accounts(ledger, roster(ledger, context)).values())
    if options.json:
        say(dump(listing(context.settings.host_name, context.clock.tick().wall, found)))
    else:
        say(text(found, context.settings))
    if stale:
        warn(f"note: {stale}")
    return 0


def text(found: Sequence[Account], settings: Settings) -> str:
    """The listing as text for a screen. A VM that nobody added is marked."""
    if not found:
        return "no VM is known yet: xenbw addvm adds one"
    lines = [render(_COLUMNS, [_row(account, settings) for account in found])]
    if any(account.vm.added_at is None for account in found):
        held = "held to the [default] allowance" if settings.default.enforce else "only metered"
        lines += ["", f"* not added: {held} (xenbw addvm VM adds it)"]
    if any(account.unmetered for account in found):
        lines += ["", "unmetered: its traffic does not pass through this dom0 (xenbw show VM says why)"]
    return "\n".join(lines)


def _row(account: Account, settings: Settings) -> tuple[str, ...]:
    limit, percent = account.allowance.limit_bytes, account.percent
    return (
        whole(account.vm.name) if account.vm.added_at else f"{whole(account.vm.name)} *",
        account.standing.state,
        "yes" if account.running else "no",
        _counted(account, account.usage.in_bytes),
        _counted(account, account.usage.out_bytes),
        _counted(account, account.used_bytes),
        "unlimited" if limit is None else format_size(limit),
        "-" if percent is None or account.unmetered else str(percent),
        local_time(account.period.end, settings.period.timezone),
    )


def _counted(account: Account, size: int) -> str:
    """A size, or "-" for 0 bytes of a VM that is not metered: its real usage is unknown."""
    return "-" if account.unmetered and size == 0 else format_size(size)


COMMAND = Command(arguments, run)

"""xenbw list: show every VM with its usage."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

from xenbw.accounting import hour_of
from xenbw.cli.accounts import accounts, freshen, roster
from xenbw.cli.command import Command, Context
from xenbw.cli.terminal import color_argument, say, screen, warn
from xenbw.config import Settings
from xenbw.ledger import usagelog
from xenbw.ledger.ledger import Ledger
from xenbw.model import State
from xenbw.report.account import Account
from xenbw.report.document import dump, listing
from xenbw.report.forecast import PAST, crossing
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


# The states in which a VM's usage goes on as it did.
_FREE = (State.OK, State.WARNED)
# How --sort orders VMs. Those of the largest numbers come first; a VM without a limit is behind those with one.
_ORDERS: Mapping[str, Callable[[Account], float]] = {
    "used": lambda account: -account.used_bytes,
    "in": lambda account: -account.usage.in_bytes,
    "out": lambda account: -account.usage.out_bytes,
    "percent": lambda account: 1 if account.percent is None else -account.percent,
    "name": lambda account: 0,
}


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--sort", choices=_ORDERS, default="name", help="the order; default: by name")
    parser.add_argument("--over", action="store_true", help="only VMs that have used up their allowance")
    parser.add_argument("--running", action="store_true", help="only VMs that run")
    color_argument(parser)
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(options: Namespace, context: Context) -> int:
    stale = freshen(context)
    with context.ledger() as ledger:
        every = list(accounts(ledger, roster(ledger, context)).values())
        found = sorted(filter(partial(_wanted, options), every), key=_ORDERS[options.sort])
        drawn_on = None if options.json or not found else screen(options.color)
        forecasts = [_forecast(ledger, account, context) for account in found] if drawn_on else []
    if options.json:
        say(dump(listing(context.settings.host_name, context.clock.tick().wall, found)))
    elif drawn_on:
        # Importing rich takes as long as the whole listing without it.
        from xenbw.report import board

        board_text = board.listing(list(zip(found, forecasts, strict=True)), context.settings.period.timezone, drawn_on)
        say("\n".join([board_text, *_notes(found, context.settings)]))
    elif every and not found:
        say("no VM is like that: xenbw list shows all")
    else:
        say(text(found, context.settings))
    if stale:
        warn(f"note: {stale}")
    return 0


def _wanted(options: Namespace, account: Account) -> bool:
    return (account.over or not options.over) and (account.running or not options.running)


def _forecast(ledger: Ledger, account: Account, context: Context) -> datetime | None:
    """When the VM will be past its limit, by its usage on this host in the last seven days."""
    if account.allowance.limit_bytes is None or not account.running or account.standing.state not in _FREE:
        return None
    now, zone = context.clock.tick().wall, context.settings.period.timezone
    hours = usagelog.hours(ledger, account.vm.id, hour_of(now - PAST))
    return crossing(account.allowance, account.usage, hours, now, account.period.end, zone)


def text(found: Sequence[Account], settings: Settings) -> str:
    """The listing as text for a screen. A VM that nobody added is marked."""
    if not found:
        return "no VM is known yet: xenbw addvm adds one"
    return "\n".join([render(_COLUMNS, [_row(account, settings) for account in found]), *_notes(found, settings)])


def _notes(found: Sequence[Account], settings: Settings) -> list[str]:
    """Lines that explain marks and states of the listing."""
    lines: list[str] = []
    if any(account.vm.added_at is None for account in found):
        held = "held to the [default] allowance" if settings.default.enforce else "only metered"
        lines += ["", f"* not added: {held} (xenbw addvm VM adds it)"]
    if any(account.unmetered for account in found):
        lines += ["", "unmetered: its traffic does not pass through this dom0 (xenbw show VM says why)"]
    return lines


def _row(account: Account, settings: Settings) -> tuple[str, ...]:
    limit, percent = account.allowance.limit_bytes, account.percent
    return (
        whole(account.vm.name) if account.vm.added_at else f"{whole(account.vm.name)} *",
        account.standing.state,
        "yes" if account.running else "no",
        account.size(account.usage.in_bytes),
        account.size(account.usage.out_bytes),
        account.size(account.used_bytes),
        "unlimited" if limit is None else format_size(limit),
        "-" if percent is None or account.unmetered else str(percent),
        local_time(account.period.end, settings.period.timezone),
    )


COMMAND = Command(arguments, run)

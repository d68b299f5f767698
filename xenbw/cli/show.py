"""xenbw show: show everything about one VM."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from xenbw.cli.accounts import accounts, freshen, roster
from xenbw.cli.command import Command, Context
from xenbw.cli.names import find, name_argument
from xenbw.cli.terminal import color_argument, say, screen, warn
from xenbw.cli.terms import reached
from xenbw.config import Settings
from xenbw.ledger import blocklog, eventlog, history, usagelog, viflog
from xenbw.ledger.ledger import Ledger
from xenbw.model import Action, Allowance, Amounts, Binding, Block, Digest, Span
from xenbw.quota import used_bytes
from xenbw.report.account import Account
from xenbw.report.document import Event, History, detail, dump
from xenbw.report.table import Column, facts, local_time, render
from xenbw.units import format_percents, format_rates, format_size


def _columns(left: str, right: str = "") -> tuple[Column, ...]:
    return (*map(Column, left.split("|")), *(Column(title, right=True) for title in right.split("|") if title))


_BLOCKS = _columns("BLOCKED|UNTIL|LIFTED|WHY")
_EVENTS = _columns("EVENT AT|WHAT")
_BINDINGS = _columns("INTERFACE|DOMID|MAC|IPS|BRIDGE|FROM|TO|ENDED", "IN|OUT")
_HISTORY = _columns("PERIOD FROM", "IN|OUT|USED|ESTIMATED")
_LATEST_EVENTS = 10


def arguments(parser: ArgumentParser) -> None:
    name_argument(parser)
    color_argument(parser)
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(options: Namespace, context: Context) -> int:
    stale = freshen(context)
    with context.ledger() as ledger:
        vm = find(ledger, options.name)
        vms = roster(ledger, context)
        account = accounts(ledger, vms)[vm.id]
        blocks = blocklog.of_vm(ledger, vm.id)
        events = eventlog.of_vm(ledger, vm.id, _LATEST_EVENTS)
        bindings = viflog.of_vm(ledger, vm.id, account.period.start)
        periods, earlier = usagelog.periods(ledger, vm.id), vms.earlier(vm.id)
        drawn_on = None if options.json else screen(options.color)
        recent = _recent(ledger, vm.id, context) if drawn_on else {}
    if options.json:
        say(dump(detail(account, blocks, bindings, periods, earlier, events)))
    else:
        say(text(account, blocks, events, bindings, periods, earlier, context.settings))
    if drawn_on:
        # Importing rich takes as long as the rest of the command.
        from xenbw.report import chart

        say(f"\n{chart.history(recent, account.allowance, context.settings.period.timezone, drawn_on)}")
    if stale:
        warn(f"note: {stale}")
    return 0


def _recent(ledger: Ledger, vm_id: int, context: Context) -> dict[Span, list[tuple[datetime, Amounts]]]:
    """The VM's latest hours, days and months, oldest first."""
    now, zone = context.clock.tick().wall, context.settings.period.timezone
    numbers = {Span.HOUR: 24, Span.DAY: 30, Span.MONTH: 12}
    return {span: history.recent(ledger, vm_id, span, number, now, zone) for span, number in numbers.items()}


def text(
    account: Account,
    blocks: Sequence[Block],
    events: Sequence[Event],
    bindings: Sequence[Binding],
    periods: Sequence[History],
    earlier: Sequence[Digest],
    settings: Settings,
) -> str:
    """The VM as text for a screen."""
    zone = settings.period.timezone
    parts = [facts(_facts(account, zone))]
    if blocks:
        parts.append(render(_BLOCKS, [_block(block, zone) for block in blocks]))
    if events:
        parts.append(render(_EVENTS, [(local_time(at, zone), text) for at, _, text in events]))
    if bindings or earlier:
        lives = [_earlier(digest, zone) for digest in earlier] + [_binding(binding, zone) for binding in bindings]
        parts.append(render(_BINDINGS, lives))
    if periods:
        parts.append(render(_HISTORY, [_period(account, period, zone) for period in periods]))
    return "\n\n".join(parts)


def _when(moment: datetime | None, zone: ZoneInfo) -> str:
    return "" if moment is None else local_time(moment, zone)


def _block(block: Block, zone: ZoneInfo) -> tuple[str, ...]:
    why = f"{block.cause}: {block.reason}"
    return _when(block.since, zone), _when(block.until, zone), _when(block.lifted_at, zone), why


def _binding(binding: Binding, zone: ZoneInfo) -> tuple[str, ...]:
    return (
        binding.interface,
        str(binding.domid),
        binding.mac or "",
        " ".join(str(address) for address in binding.ips),
        binding.bridge or "",
        _when(binding.started_at, zone),
        _when(binding.ended_at, zone),
        binding.end_reason or "",
        format_size(binding.counted.in_bytes),
        format_size(binding.counted.out_bytes),
    )


def _earlier(digest: Digest, zone: ZoneInfo) -> tuple[str, ...]:
    """A row for several lives that have been summed up."""
    return (
        f"({digest.lives:,} lives)",
        "",
        "",
        " ".join(str(address) for address in digest.ips),
        "",
        local_time(digest.started_at, zone),
        local_time(digest.ended_at, zone),
        digest.end_reason,
        format_size(digest.counted.in_bytes),
        format_size(digest.counted.out_bytes),
    )


def _period(account: Account, period: History, zone: ZoneInfo) -> tuple[str, ...]:
    start, usage, divided_bytes = period
    used = used_bytes(account.allowance.count, usage)
    return _when(start, zone), *(format_size(size) for size in (*usage, used, divided_bytes))


def _facts(account: Account, zone: ZoneInfo) -> list[tuple[str, str]]:
    allowance, vm = account.allowance, account.vm
    limit = "unlimited" if allowance.limit_bytes is None else format_size(allowance.limit_bytes)
    share = "" if account.percent is None else f" ({account.percent} %)"
    unseen = ", as far as it was metered" if account.unmetered else ""
    added = local_time(vm.added_at, zone) if vm.added_at else "no: found running"
    return [
        ("VM", vm.name),
        ("state", f"{account.standing.state}: {account.standing.reason}"),
        ("running", "yes" if account.running else "no"),
        ("used", f"{format_size(account.used_bytes)} of {limit}{share}{unseen}"),
        ("in", format_size(account.usage.in_bytes)),
        ("out", format_size(account.usage.out_bytes)),
        ("counted", _counted(allowance)),
        *_held(allowance),
        ("period", f"{local_time(account.period.start, zone)} to {local_time(account.period.end, zone)}"),
        ("added", added),
        ("addresses given", " ".join(str(address) for address in vm.ips) or "none"),
        ("config file", vm.config_file or "none"),
        ("allowed while blocked", reached(vm) or "as configured"),
        *((("mails also to", " ".join(vm.mail)),) if vm.mail else ()),
    ]


def _counted(allowance: Allowance) -> str:
    return f"{allowance.count}; warned at {format_percents(allowance.thresholds)}; past the limit: {allowance.action}"


def _held(allowance: Allowance) -> Iterator[tuple[str, str]]:
    """The rates of a throttle and the hard limit, as far as the VM has them."""
    if allowance.action is Action.THROTTLE:
        rates = allowance.rates
        yield "throttle", format_rates(rates) if rates else "no rate is set: past the limit it is blocked"
    if allowance.hard_limit_bytes is not None:
        yield "hard limit", f"{format_size(allowance.hard_limit_bytes)}; past it: block"


COMMAND = Command(arguments, run)

"""xenbw report: show a billing month of one VM, or of all."""

from __future__ import annotations

import csv
import io
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from xenbw import quota
from xenbw.cli.accounts import freshen, roster
from xenbw.cli.command import Command, Context
from xenbw.cli.names import find, vm_name
from xenbw.cli.terminal import say, warn
from xenbw.errors import UsageError, XenbwError
from xenbw.ledger import history, usagelog
from xenbw.ledger.ledger import Ledger
from xenbw.model import ZERO, Amounts, Counters, Entry, Period, Span
from xenbw.report.document import dump, period_documents
from xenbw.report.period import PeriodReport, Values, percentile, total
from xenbw.report.table import Column, facts, local_time, render, whole
from xenbw.text import printable
from xenbw.units import format_rate, format_size, format_time

_MONTH = re.compile(r"(19[7-9]\d|20\d\d|21\d\d)-(0[1-9]|1[0-2])", re.ASCII)
_ALL = (
    Column("VM"),
    Column("PERIOD FROM"),
    *(Column(title, right=True) for title in ("IN", "OUT", "USED", "%", "95 % IN", "95 % OUT")),
)
_SPANS = {Span.FIVE_MINUTES: "five-minute", Span.HOUR: "hourly"}
_VNSTAT = "vnstat"
# A spreadsheet takes text that begins so for a formula.
_FORMULA = ("=", "+", "-", "@")


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="VM", nargs="?", type=vm_name, help="the VM's name, as xl list prints it; without it: all VMs"
    )
    parser.add_argument(
        "--period",
        metavar="MONTH",
        type=_month,
        help="the period that began in this month, like 2026-10; default: the present one. The 95th percentile is that"
        " of five-minute values, as transit is billed",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--csv", action="store_true", help="a line for each VM and day, as CSV")
    shape.add_argument(
        "--json",
        metavar=_VNSTAT,
        nargs="?",
        const=True,
        help="the same as JSON; with the word vnstat: all that is kept, in the shape of vnstat --json",
    )
    shape.add_argument(
        "--html",
        metavar="DIR",
        nargs="?",
        const="",
        help="write a page for the host and for each VM into this folder; default: [report] dir, if it is set",
    )
    shape.add_argument("--link", action="store_true", help="print the name of the page that the VM's tenant may see")


def _month(typed: str) -> tuple[int, int]:
    """(year, month). Raises UsageError."""
    found = _MONTH.fullmatch(typed)
    if found is None:
        raise UsageError(f"not a month: {typed!r}", "write it like 2026-10: the month in which the period began")
    return int(found[1]), int(found[2])


def run(options: Namespace, context: Context) -> int:
    if options.link:
        return _print_link(options, context)
    if options.html is not None:
        return _write_pages(options, context)
    if options.json == _VNSTAT:
        return _print_vnstat(options, context)
    if isinstance(options.json, str):
        # The name of a VM may come after --json, too.
        if options.name is not None:
            raise UsageError(f"--json takes no word but {_VNSTAT}, not {options.json!r}", "xenbw report VM --json")
        options.name = vm_name(options.json)
    stale = freshen(context)
    zone, now = context.settings.period.timezone, context.clock.tick().wall
    with context.ledger() as ledger:
        vms = roster(ledger, context)
        wanted = [vms.entries[find(ledger, options.name).id]] if options.name else list(vms.entries.values())
        periods = [_period(entry, options.period, zone, now) for entry in wanted]
        # All as of one moment: the daemon goes on writing.
        with ledger.snapshot():
            usage = vms.usage()
            found = [_report(ledger, *one, usage, zone, now) for one in zip(wanted, periods, strict=True)]
    if options.json:
        say(dump(period_documents(context.settings.host_name, now, found, zone)))
    elif options.csv:
        say(_csv(found))
    else:
        say(_one(found[0], zone) if options.name else _all(found, zone))
    if stale:
        warn(f"note: {stale}")
    return 0


def _print_vnstat(options: Namespace, context: Context) -> int:
    # Imported only here, as is all that the other commands do not need.
    from xenbw.cli import vnstat
    from xenbw.report.vnstat import text

    if options.period is not None:
        raise UsageError("--json vnstat takes no period", "it has all that is kept: xenbw report --json vnstat [VM]")
    stale = freshen(context)
    zone, now = context.settings.period.timezone, context.clock.tick().wall
    with context.ledger() as ledger, ledger.snapshot():
        vms = sorted(ledger.vms().values(), key=lambda vm: vm.name)
        wanted = [find(ledger, options.name)] if options.name else vms
        found = vnstat.traffic(ledger, wanted, zone, now)
    say(text(found, zone))
    if stale:
        warn(f"note: {stale}")
    return 0


def _print_link(options: Namespace, context: Context) -> int:
    from xenbw.cli import links

    if options.name is None or options.period is not None:
        raise UsageError("--link takes a VM and no period", "xenbw report --link VM")
    with context.ledger() as ledger:
        vm = find(ledger, options.name)
    name = f"{links.TENANTS}/{links.stem(links.key_of(links.key_path(context.settings.ledger.path)), vm)}.html"
    folder = context.settings.report.dir
    say(name if folder is None else f"{folder / name}")
    return 0


def _write_pages(options: Namespace, context: Context) -> int:
    if options.name is not None or options.period is not None:
        raise UsageError("--html takes neither a VM nor a period", "it writes the pages of all VMs: --html DIR")
    folder = Path(options.html) if options.html else context.settings.report.dir
    if folder is None:
        say("nothing was written: [report] dir is not set, and no folder was named")
        return 0
    # Importing jinja2 takes as long as the whole command without it.
    from xenbw.cli import htmlreport

    written, number = htmlreport.write(folder, context)
    say(f"{folder}: {number:,} files, {written:,} of them written now")
    return 0


def _period(entry: Entry, month: tuple[int, int] | None, zone: ZoneInfo, now: datetime) -> Period:
    """The VM's period that began in that month. Raises XenbwError for one that has not begun."""
    if month is None:
        return entry.period
    period = quota.period_from(*month, entry.allowance.reset_day, zone)
    if period.start > now:
        raise XenbwError(
            f"the period that begins {local_time(period.start, zone)} is in the future",
            f"the present one began {local_time(entry.period.start, zone)}",
        )
    return period


def _report(
    ledger: Ledger, entry: Entry, period: Period, present: dict[int, Counters], zone: ZoneInfo, now: datetime
) -> PeriodReport:
    vm_id, until = entry.vm.id, min(period.end, now)

    def values(span: Span) -> Values:
        return history.values(ledger, vm_id, span, period.start, until, zone)

    days = values(Span.DAY)
    usage = present.get(vm_id, ZERO) if period == entry.period else _past_usage(ledger, vm_id, period, days)
    kept = history.finest(ledger, vm_id, period.start, until)
    rates = percentile(values(kept), kept, period.start, until) if kept in _SPANS else None
    hours = values(Span.HOUR) if kept in _SPANS else ()
    return PeriodReport(entry.vm.name, entry.allowance, period, usage, days, hours, kept, rates)


def _past_usage(ledger: Ledger, vm_id: int, period: Period, days: Values) -> Counters:
    """The VM's usage in a period before the present one, whose days these are."""
    starts = [start for start, _, _ in usagelog.periods(ledger, vm_id) if period.start <= start < period.end]
    if starts == [period.start]:
        return usagelog.of_period(ledger, vm_id, period.start)
    # The usage was filed by another reset day or time zone: periods overlap this one or are parts of it.
    return total(days).usage


def _one(report: PeriodReport, zone: ZoneInfo) -> str:
    """One VM's report as text."""
    if not report.days and not any(report.usage):
        return f"{printable(whole(report.name))}: nothing was counted in the period {_between(report.period, zone)}"
    parts = [facts(_facts(report, zone))]
    if report.days:
        parts.append(render(_amounts_of("DAY"), [_row(f"{at:%Y-%m-%d %a}", report, part) for at, part in report.days]))
        tops = [(f"{at:%Y-%m-%d %a}", part) for at, part in report.top(report.days)]
        parts.append(render(_amounts_of("TOP DAYS"), [_row(at, report, part) for at, part in tops]))
    if report.hours:
        tops = [(local_time(at, zone), part) for at, part in report.top(report.hours)]
        parts.append(render(_amounts_of("TOP HOURS"), [_row(at, report, part) for at, part in tops]))
    return "\n\n".join(parts)


def _amounts_of(title: str) -> tuple[Column, ...]:
    return (Column(title), *(Column(name, right=True) for name in ("IN", "OUT", "USED", "FLOOD", "REFUSED")))


def _row(start: str, report: PeriodReport, amounts: Amounts) -> tuple[str, ...]:
    refused = amounts.refused_in_bytes + amounts.refused_out_bytes
    sizes = (amounts.in_bytes, amounts.out_bytes, report.of(amounts), amounts.flood_bytes, refused)
    return (start, *map(format_size, sizes))


def _facts(report: PeriodReport, zone: ZoneInfo) -> Iterator[tuple[str, str]]:
    limit, counted = report.allowance.limit_bytes, report.counted
    share = "" if report.percent is None else f" ({report.percent} %)"
    yield "VM", report.name
    yield "period", _between(report.period, zone)
    yield "used", f"{format_size(report.used_bytes)} of {'unlimited' if limit is None else format_size(limit)}{share}"
    yield "in", format_size(report.usage.in_bytes)
    yield "out", format_size(report.usage.out_bytes)
    yield "flood", f"{format_size(counted.flood_bytes)}, not counted"
    refused = format_size(counted.refused_in_bytes), format_size(counted.refused_out_bytes)
    yield "refused", f"{refused[0]} in, {refused[1]} out, not counted"
    yield "95th percentile", _rates(report)


def _rates(report: PeriodReport) -> str:
    found, kept = report.percentile, report.kept
    if found is None and kept in _SPANS:
        return f"unknown yet: the first {_SPANS[kept]} value is not complete"
    if found is None:
        return "unknown: neither five-minute values nor hours are kept of this period"
    in_bits, out_bits = map(format_rate, found.rates)
    return f"{in_bits} in, {out_bits} out, of {found.count:,} {_SPANS[found.span]} values"


def _between(period: Period, zone: ZoneInfo) -> str:
    return f"{local_time(period.start, zone)} to {local_time(period.end, zone)}"


def _all(reports: Sequence[PeriodReport], zone: ZoneInfo) -> str:
    """All VMs' reports as a table, a line for each VM."""
    if not reports:
        return "no VM is known yet: xenbw addvm adds one"
    return render(_ALL, [_line(report, zone) for report in reports])


def _line(report: PeriodReport, zone: ZoneInfo) -> tuple[str, ...]:
    rates = ("-", "-") if report.percentile is None else tuple(map(format_rate, report.percentile.rates))
    return (
        whole(report.name),
        local_time(report.period.start, zone),
        *map(format_size, (*report.usage, report.used_bytes)),
        "-" if report.percent is None else str(report.percent),
        *rates,
    )


def _csv(reports: Iterable[PeriodReport]) -> str:
    """A line for each VM and day with traffic (RFC 4180, but with plain line breaks)."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(("vm", "period_start", "day", *Amounts._fields))
    for report in reports:
        name = printable(report.name)
        name = f"'{name}" if name.startswith(_FORMULA) else name
        start = format_time(report.period.start)
        table.writerows((name, start, f"{at:%Y-%m-%d}", *amounts) for at, amounts in report.days)
    return stream.getvalue().rstrip("\n")


COMMAND = Command(arguments, run)

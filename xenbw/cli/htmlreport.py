"""xenbw report --html: write the pages of the host and of its VMs into a folder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from xenbw import quota
from xenbw.accounting import HOUR, cell_start, hour_of
from xenbw.cli import links
from xenbw.cli.accounts import accounts, freshen, roster
from xenbw.cli.command import Context
from xenbw.cli.site import Site
from xenbw.ledger import blocklog, history, usagelog
from xenbw.ledger.ledger import Ledger
from xenbw.model import VM, ZERO, Counters, Period, Span, State
from xenbw.report import forecast
from xenbw.report.account import Account
from xenbw.report.pages import DAY, LOCAL, MARK, MONTH, UTC_TIME, Pages, Row, Subject, tenant_document
from xenbw.report.table import local_time
from xenbw.units import format_time

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", re.ASCII)
_MONTHS = 13
# The states in which a VM's usage goes on as it did.
_FREE = (State.OK, State.WARNED, State.UNLIMITED)


def write(folder: Path, context: Context) -> tuple[int, int]:
    """Bring the pages in the folder up to date. Returns how many files were written, and how many there are. Raises
    XenbwError, LedgerError."""
    settings = context.settings
    note, at, zone = freshen(context), context.clock.tick().wall, settings.period.timezone
    # As of the last complete five minutes: the pages of a VM without traffic do not change meanwhile.
    now = cell_start(at)
    key = links.key_of(links.key_path(settings.ledger.path))
    stamps = {LOCAL: local_time(at, zone), json.dumps(UTC_TIME)[1:-1]: format_time(at)}
    site, pages = Site(folder, MARK, stamps), Pages(settings.host_name, zone, now, note)
    with context.ledger() as ledger:
        found = accounts(ledger, roster(ledger, context))
        tenants = {id_: f"{links.TENANTS}/{links.stem(key, account.vm)}" for id_, account in found.items()}
        names = ["index.html", f"{links.TENANTS}/index.html", *(page_of(account.vm) for account in found.values())]
        names += [f"{tenant}.{kind}" for tenant in tenants.values() for kind in ("html", "json")]
        rows, minutes, hours = [], dict[datetime, Counters](), dict[datetime, Counters]()
        with site.writing(names):
            for subject in subjects(ledger, found, zone, now):
                account = subject.account
                admins, tenant = pages.vm(subject, "../index.html")
                site.put(page_of(account.vm), admins)
                site.put(f"{tenants[account.vm.id]}.html", tenant)
                site.put(f"{tenants[account.vm.id]}.json", f"{json.dumps(tenant_document(account))}\n")
                rows.append(Row(account, subject.crosses, page_of(account.vm)))
                _sum(minutes, subject.minutes)
                _sum(hours, subject.hours)
            site.put(f"{links.TENANTS}/index.html", pages.empty())
            site.put("index.html", pages.host(rows, minutes, hours))
    return site.written, len(names)


def page_of(vm: VM) -> str:
    """The VM's page for the admin. A name that is no good name for a file gets a hash; no plain name has a "~"."""
    if _PLAIN.fullmatch(vm.name):
        return f"vm/{vm.name}.html"
    digest = hashlib.sha256(vm.name.encode(errors="backslashreplace")).hexdigest()[:16]
    return f"vm/{re.sub(r'[^A-Za-z0-9]+', '-', vm.name)[:40].strip('-')}~{digest}.html"


def subjects(ledger: Ledger, found: Mapping[int, Account], zone: ZoneInfo, now: datetime) -> Iterator[Subject]:
    """What the pages tell of each VM; each VM's numbers are as of one moment. Raises LedgerError."""
    for vm_id, account in found.items():
        with ledger.snapshot():
            values = history.values(ledger, vm_id, Span.FIVE_MINUTES, now - DAY - timedelta(minutes=10), now, zone)
            hours = dict(usagelog.hours(ledger, vm_id, min(hour_of(now - MONTH), account.period.start)))
            months = _months(account, usagelog.periods(ledger, vm_id), zone)
            blocks = blocklog.of_vm(ledger, vm_id)
        crosses, expected = _outlook(account, hours, now, zone)
        minutes = {start: amounts.usage for start, amounts in values}
        yield Subject(account, crosses, expected, minutes, hours, months, blocks)


def _outlook(
    account: Account, hours: Mapping[datetime, Counters], now: datetime, zone: ZoneInfo
) -> tuple[datetime | None, Counters | None]:
    """When the VM crosses its allowance, and what it will have used when its period ends."""
    if not account.running or account.standing.state not in _FREE:
        return None, None
    since = hour_of(now - forecast.PAST)
    week = [(hour, usage) for hour, usage in hours.items() if hour >= since]
    end, usage = account.period.end, account.usage
    crosses = forecast.crossing(account.allowance, usage, week, now, end, zone)
    return crosses, forecast.expected(usage, week, now, end, zone)


def _months(
    account: Account, recorded: list[tuple[datetime, Counters, int]], zone: ZoneInfo
) -> list[tuple[Period, Counters]]:
    """The VM's billing months up to the present one, from the first with usage on. Usage of a period that began by an
    earlier reset day is in the month that contains that beginning."""
    periods = [account.period]
    while len(periods) < _MONTHS:
        periods.append(quota.period_at(periods[-1].start - HOUR, account.allowance.reset_day, zone))
    sums = dict.fromkeys(periods, ZERO)
    for start, usage, _ in recorded:
        inside = next((period for period in periods[1:] if period.start <= start < period.end), None)
        if inside is not None:
            sums[inside] = sums[inside].plus(usage)
    sums[account.period] = account.usage
    months = [(period, sums[period]) for period in reversed(periods)]
    first = next((at for at, (_, usage) in enumerate(months) if any(usage)), _MONTHS - 1)
    return months[first:]


def _sum(into: dict[datetime, Counters], values: Mapping[datetime, Counters]) -> None:
    for start, usage in values.items():
        into[start] = into[start].plus(usage) if start in into else usage

"""The HTML report: a page for the host, and two for each VM, one for the admin and one for its tenant.

Made from the templates beside this file. jinja2 is imported here, so only the commands that write pages import this.
A page is complete in itself: no script, and no request to anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from xenbw.accounting import HOUR
from xenbw.model import ZERO, Block, Cause, Count, Counters, Period, State
from xenbw.quota import used_bytes
from xenbw.report import plot
from xenbw.report.account import Account
from xenbw.report.plot import Axis, Chart, Course, Used, Values
from xenbw.report.table import local_time, whole
from xenbw.text import printable
from xenbw.units import format_size, format_time

FOLDER = Path(__file__).with_name("templates")
FIVE_MINUTES, DAY = timedelta(minutes=5), timedelta(days=1)
WEEK, MONTH = 7 * DAY, 31 * DAY
MARK = 'name="generator" content="xenbw"', '"generator": "xenbw"'
"""What is in each of our pages, and in each of our JSON documents, near its beginning."""
LOCAL, UTC_TIME = "\0local\0", "\0utc\0"
"""They stand for the time of writing. Without that time, the page of a VM without traffic remains the same."""

_DONE_WITH = {State.OVER: "its network is off", State.THROTTLED: "its network is slowed down"}
_COUNTED = {
    Count.TOTAL: "in and out",
    Count.IN: "in",
    Count.OUT: "out",
    Count.MAX: "the larger way",
}


@dataclass(frozen=True)
class Subject:
    """One VM. crosses: when it will be past its limit. expected: its usage at the end of its period; both None if that
    cannot be told. minutes, hours: its traffic on this host, of a day by five minutes, and by hours (UTC) of the last
    31 days and of its period. months: its billing months, oldest first."""

    account: Account
    crosses: datetime | None
    expected: Counters | None
    minutes: Values
    hours: Values
    months: Sequence[tuple[Period, Counters]]
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Row:
    """One VM on the host's page. link: its page."""

    account: Account
    crosses: datetime | None
    link: str


class Pages:
    """Writes the pages of one host as of one moment. note: why the numbers may be old, or None."""

    def __init__(self, host: str, zone: ZoneInfo, now: datetime, note: str | None) -> None:
        self._zone, self._now = zone, now
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.globals |= {"host": printable(host), "zone": zone.key, "updated": LOCAL}
        self._note = note
        self._day_cache: dict[datetime, datetime] = {}
        self._minutes = self._axis(FIVE_MINUTES, DAY, "%a %H:%M", 6)
        self._hours = self._axis(HOUR, WEEK, "%a %b %d %H:%M", 24)
        self._days = self._day_axis(self._day_of(now) - 30 * DAY, self._day_of(now))

    def vm(self, subject: Subject, home: str) -> tuple[str, str]:
        """The VM's page for the admin, with a link to the host's page at `home`, and its tenant's page, which says
        nothing about the host or other VMs."""
        account, charts = subject.account, self._charts(subject)
        shown = {"vm": self._vm(account), "charts": charts, "outlook": self._outlook(subject)}
        admin = self._fill(
            "vm.html",
            **shown,
            told=printable(account.standing.reason),
            note=self._note,
            home=home,
            facts=[*self._facts(account), ("Running", "yes" if account.running else "no")],
            blocks=[self._block(block, f"{block.cause}: {block.reason}") for block in subject.blocks],
        )
        tenant = self._fill(
            "vm.html",
            **shown,
            told=self._told(account),
            note=self._note and "These numbers may be old.",
            home=None,
            facts=self._facts(account),
            blocks=[self._block(block, _why(block)) for block in subject.blocks],
        )
        return admin, tenant

    def host(self, rows: Sequence[Row], minutes: Values, hours: Values) -> str:
        """The host's page. minutes, hours: the sums over all VMs."""
        ordered = sorted(rows, key=_by_share)
        usage = ZERO
        for row in rows:
            usage = usage.plus(row.account.usage)
        held = sum(row.account.standing.block is not None for row in rows)
        facts = [
            ("VMs", f"{len(rows):,}"),
            ("Running", f"{sum(row.account.running for row in rows):,}"),
            ("Blocked", f"{held:,}"),
            ("In, present periods", format_size(usage.in_bytes)),
            ("Out, present periods", format_size(usage.out_bytes)),
        ]
        vms = [
            {
                **self._vm(row.account),
                "link": row.link,
                "crosses": row.crosses and self._short(row.crosses),
                "ends": f"{row.account.period.end.astimezone(self._zone):%Y-%m-%d}",
            }
            for row in ordered
        ]
        charts = self._draw(self._recent(minutes, hours, ()))
        return self._fill("host.html", vms=vms, facts=facts, charts=charts, note=self._note and printable(self._note))

    def empty(self) -> str:
        """The page that a web server shows instead of a list of the tenants' pages."""
        return self._fill("empty.html")

    def _fill(self, template: str, **values: Any) -> str:
        return self._templates.get_template(template).render(**values)

    def _draw(self, charts: Sequence[tuple[str, str, Chart | None]]) -> Markup:
        return Markup(self._fill("charts.html", charts=charts))

    # parts of a VM's page

    def _vm(self, account: Account) -> dict[str, Any]:
        limit = account.allowance.limit_bytes
        return {
            "name": printable(whole(account.vm.name)),
            "state": account.standing.state.value,
            "used": account.size(account.used_bytes),
            "limit": None if limit is None else format_size(limit),
            "percent": None if account.unmetered else account.percent,
            "in_size": account.size(account.usage.in_bytes),
            "out_size": account.size(account.usage.out_bytes),
        }

    def _told(self, account: Account) -> str:
        """The VM's state for its tenant. The reason that an admin typed is not for the tenant."""
        state, ends = account.standing.state, local_time(account.period.end, self._zone)
        if state in _DONE_WITH and (account.standing.block or account.standing.throttle):
            return f"The allowance is used up: {_DONE_WITH[state]} until {ends}."
        return {
            State.OK: "Within its allowance.",
            State.WARNED: "Near its allowance.",
            State.BLOCKED: "Its network is off: blocked by the provider.",
            State.UNLIMITED: "No allowance is set.",
            State.UNMETERED: "Its traffic is not metered.",
        }.get(state, "More than the allowance is used; the network stays on.")

    def _facts(self, account: Account) -> list[tuple[str, str]]:
        allowance, period = account.allowance, account.period
        return [
            ("In", account.size(account.usage.in_bytes)),
            ("Out", account.size(account.usage.out_bytes)),
            ("Counts", _COUNTED[allowance.count]),
            ("Past the allowance", allowance.action.value),
            ("Period", f"{self._day(period.start)} to {self._day(period.end)}"),
        ]

    def _outlook(self, subject: Subject) -> str | None:
        account = subject.account
        if subject.crosses is not None:
            return f"If it goes on as in the last seven days, it crosses its allowance {self._short(subject.crosses)}."
        if subject.expected is None:
            return None
        size = format_size(used_bytes(account.allowance.count, subject.expected))
        return f"If it goes on as in the last seven days, it will have used {size} when its period ends."

    def _block(self, block: Block, why: str) -> tuple[str, str, str]:
        if block.lifted_at is not None:
            to = local_time(block.lifted_at, self._zone)
        else:
            to = f"until {local_time(block.until, self._zone)}" if block.until else "until it is lifted"
        return local_time(block.since, self._zone), to, printable(why)

    def _charts(self, subject: Subject) -> Markup:
        account = subject.account
        blocks = [(block.since, block.lifted_at or self._now) for block in reversed(subject.blocks)]
        return self._draw(
            [
                ("period", "This period", self._course(subject, blocks)),
                *self._recent(subject.minutes, subject.hours, blocks),
                ("months", "Billing months", self._months(subject, account.allowance.limit_bytes, blocks)),
            ]
        )

    def _recent(self, minutes: Values, hours: Values, blocks: plot.Spans) -> list[tuple[str, str, Chart | None]]:
        days: dict[datetime, Counters] = {}
        for hour, usage in hours.items():
            day = self._day_of(hour)
            days[day] = days[day].plus(usage) if day in days else usage
        name = "Last 24 hours", "Last 7 days", "Last 31 days"
        return [
            ("minutes", name[0], plot.rates("minutes", name[0], self._minutes, minutes, blocks)),
            ("hours", name[1], plot.rates("hours", name[1], self._hours, hours, blocks)),
            ("days", name[2], plot.amounts("days", name[2], self._days, days, blocks)),
        ]

    def _course(self, subject: Subject, blocks: plot.Spans) -> Chart | None:
        account, count = subject.account, subject.account.allowance.count
        start, end = account.period.start, account.period.end
        used, before, points, stride = ZERO, start, [(start, 0)], (end - start) / 250
        for hour, usage in subject.hours.items():
            if hour < start:
                continue
            if hour - before > HOUR:  # it rests until then
                points.append((hour, used_bytes(count, used)))
            used, before = used.plus(usage), hour
            if hour + HOUR - points[-1][0] >= stride:
                points.append((min(hour + HOUR, self._now), used_bytes(count, used)))
        # What other hosts counted has no hours here.
        points.append((max(points[-1][0], min(self._now, end)), account.used_bytes))
        expected = None if subject.expected is None else used_bytes(count, subject.expected)
        course = Course(start, end, points, account.allowance.limit_bytes, expected)
        return plot.course(course, self._day_axis(self._day_of(start), self._day_of(end - DAY / 24)), blocks)

    def _months(self, subject: Subject, limit: int | None, blocks: plot.Spans) -> Chart | None:
        count, months = subject.account.allowance.count, subject.months
        axis = Axis(
            [period.start for period, _ in months] + [months[-1][0].end],
            lambda moment: f"{moment.astimezone(self._zone):%Y-%m-%d}",
            lambda at, moment: "" if (len(months) - 1 - at) % 2 else f"{moment.astimezone(self._zone):%b}",
            centred=True,
        )
        found = [Used(usage, used_bytes(count, usage), _parts(count, usage)) for _, usage in months]
        return plot.months(axis, found, limit, blocks)

    # axes

    def _axis(self, step: timedelta, length: timedelta, written: str, labelled: int) -> Axis:
        """The last complete spans. labelled: the first span in every so many hours of the zone's day has a label."""
        seconds = int(step.total_seconds())
        end = datetime.fromtimestamp(int(self._now.timestamp()) // seconds * seconds, self._now.tzinfo)
        number = length // step

        def label(_at: int, moment: datetime) -> str:
            local, before = moment.astimezone(self._zone), (moment - step).astimezone(self._zone)
            part = local.hour // labelled
            if (local.date(), part) == (before.date(), before.hour // labelled):
                return ""
            return f"{local:%a}" if labelled == 24 else f"{part * labelled:02}:00"

        def write(moment: datetime) -> str:
            return moment.astimezone(self._zone).strftime(written)

        return Axis([end - (number - at) * step for at in range(number + 1)], write, label)

    def _day_axis(self, first: datetime, last: datetime) -> Axis:
        days = [first]
        while days[-1] <= last:
            days.append(self._day_of(days[-1] + 1.5 * DAY))

        def label(at: int, moment: datetime) -> str:
            return self._day(moment) if at % 7 == 3 else ""

        def write(moment: datetime) -> str:
            return f"{moment.astimezone(self._zone):%a} {self._day(moment)}"

        return Axis(days, write, label, centred=True)

    def _day_of(self, moment: datetime) -> datetime:
        """When the day of the zone began that contains this moment."""
        known = self._day_cache.get(moment)
        if known is None:
            local = moment.astimezone(self._zone)
            known = self._day_cache[moment] = datetime(local.year, local.month, local.day, tzinfo=self._zone)
        return known

    def _day(self, moment: datetime) -> str:
        local = moment.astimezone(self._zone)
        return f"{local:%b} {local.day}"

    def _short(self, moment: datetime) -> str:
        return f"{self._day(moment)} {moment.astimezone(self._zone):%H:%M}"


def tenant_document(account: Account) -> dict[str, Any]:
    """The JSON beside the tenant's page. The keys that `list --json` has too have the same meaning."""
    return {
        "generator": "xenbw",
        "name": account.vm.name,
        "state": account.standing.state.value,
        "used_bytes": account.used_bytes,
        "limit_bytes": account.allowance.limit_bytes,
        "percent": account.percent,
        "count": account.allowance.count.value,
        "period_start": format_time(account.period.start),
        "period_end": format_time(account.period.end),
        "updated_at": UTC_TIME,
    }


def _by_share(row: Row) -> tuple[float, int]:
    percent = row.account.percent
    return (1.0 if percent is None else -percent), -row.account.used_bytes


def _why(block: Block) -> str:
    return "the allowance was used up" if block.cause is Cause.QUOTA else "blocked by the provider"


def _parts(count: Count, usage: Counters) -> tuple[tuple[str, int], ...]:
    """What an allowance counts, each way."""
    if count is Count.TOTAL:
        return (("in", usage.in_bytes), ("out", usage.out_bytes))
    larger_in = usage.in_bytes >= usage.out_bytes
    if count is Count.IN or (count is Count.MAX and larger_in):
        return (("in", usage.in_bytes),)
    return (("out", usage.out_bytes),)

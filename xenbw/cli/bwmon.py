"""xenbw import-bwmon: take over the VMs of the 2014 script, with their limits and their usage in this period."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from typing import TYPE_CHECKING

from xenbw import checks, quota
from xenbw.accounting import hour_of
from xenbw.cli import host
from xenbw.cli.command import Command, Context
from xenbw.cli.host import Sighting
from xenbw.cli.names import vm_name
from xenbw.cli.terminal import say, warn
from xenbw.cli.terms import Terms
from xenbw.cli.transfer import refuse_beside_daemon
from xenbw.errors import UsageError
from xenbw.judge.roster import allowance_of
from xenbw.ledger import usagelog, vmlog
from xenbw.ledger.ledger import Ledger
from xenbw.model import VM, Count, Period
from xenbw.report.table import Column, local_time, render
from xenbw.text import decode
from xenbw.units import format_size
from xenbw.xen import domaincfg

if TYPE_CHECKING:
    from xenbw.transfer.bwmon import Month, Watched

_COLUMNS = (
    Column("VM"),
    Column("SCRIPT'S LIMIT", right=True),
    Column("LIMIT HERE", right=True),
    Column("SCRIPT COUNTED", right=True),
    Column("ADDED TO USAGE", right=True),
    Column("MEASURED"),
)
_SOURCE = "mongodb://localhost/bwmon"


@dataclass(frozen=True)
class _Step:
    """What to do about one VM. terms: columns of its row that change. missing: bytes of the period since `since` that
    the script counted and the ledger lacks; they are added to the day of `hour`, that of the last measurement."""

    watched: Watched
    name: str
    before: VM | None
    terms: Terms
    since: datetime
    hour: datetime
    missing: int

    @property
    def changes(self) -> bool:
        return bool(self.terms or self.missing)


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="URI_OR_FOLDER",
        nargs="?",
        default=_SOURCE,
        help=f"the script's database, or a folder that mongodump or mongoexport wrote; default {_SOURCE}",
    )
    parser.add_argument("--overwrite", action="store_true", help="take its limits also for VMs that were added here")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be taken over")


def run(options: Namespace, context: Context) -> int:
    from xenbw.transfer import bwmon

    if not options.dry_run:
        # The daemon would go on from the sums in its memory.
        refuse_beside_daemon(context, "nothing was taken over")
    now = context.clock.tick().wall
    look = partial(host.look, listed=host.guests(context), context=context, read=cache(domaincfg.read))
    known = _known(context)

    def since(name: str) -> datetime:
        return _period(known.get(name), now, context).start

    watched = _usable(bwmon.read(options.source, _months(now, context), since))
    unborn = options.dry_run and not checks.is_there(context.settings.ledger.path)
    with nullcontext() if unborn else context.ledger(create=True) as ledger:
        steps = []
        for name, its in watched.items():
            before, hour = known.get(name), hour_of(min(its.measured_at or now, now))
            terms = _terms(its, before, options.overwrite, partial(look, name), context)
            missing = _missing(its, ledger, before, since(name), hour)
            steps.append(_Step(its, name, before, terms, since(name), hour, missing))
        if ledger and not options.dry_run and any(step.changes for step in steps):
            with ledger.transaction():
                for step in steps:
                    _do(step, ledger, context)
    _tell(steps, options, context)
    return 0


def _known(context: Context) -> dict[str, VM]:
    """The VMs in the ledger, by name."""
    if not checks.is_there(context.settings.ledger.path):
        return {}
    with context.ledger() as ledger:
        return {vm.name: vm for vm in ledger.vms().values()}


def _period(vm: VM | None, now: datetime, context: Context) -> Period:
    """The present period of a VM. vm None: one that is not in the ledger yet."""
    default = context.settings.default_allowance
    reset_day = allowance_of(vm, default).reset_day if vm else default.reset_day
    return quota.period_at(now, reset_day, context.settings.period.timezone)


def _months(now: datetime, context: Context) -> list[Month]:
    """The calendar months in which present periods can lie: this month and the one before."""
    today = now.astimezone(context.settings.period.timezone)
    earlier = today.replace(day=1) - timedelta(days=1)
    return [(earlier.year, earlier.month), (today.year, today.month)]


def _usable(found: Iterable[Watched]) -> dict[str, Watched]:
    """The script's VMs that can be VMs here, by name."""
    usable: dict[str, Watched] = {}
    for its in sorted(found, key=lambda its: its.name != its.hostname):
        try:
            name = vm_name(its.name)
        except UsageError as error:
            warn(f"note: {its.hostname!r} is skipped: {error.message}")
            continue
        if its.limit_bytes is None:
            warn(f"note: {name} is skipped: the script's limit is no number of gigabytes (xenbw addvm adds it)")
        elif name in usable:
            warn(f"note: {its.hostname!r} is skipped: {usable[name].hostname!r} is {name} too")
        else:
            usable[name] = its
            if name != its.hostname.strip():
                warn(f"note: {its.hostname!r} is {name}: the script compares names without blanks")
    return dict(sorted(usable.items()))


def _terms(its: Watched, before: VM | None, overwrite: bool, look: Callable[[], Sighting], context: Context) -> Terms:
    """The columns of the VM's row that change. The script counts in and out together."""
    added = before is not None and before.added_at is not None
    if added and not overwrite:
        return {}
    terms: Terms = {"limit_bytes": its.limit_bytes, "unlimited": False, "count": Count.TOTAL}
    if not added:
        config, protect = look().config, context.settings.enforce.protect
        found = dict.fromkeys(address for vif in (config.vifs if config else ()) for address in vif.ips)
        terms["ips"] = tuple(address for address in found if host.may_be_given(address, protect))
        terms["config_file"] = decode(os.fsencode(config.path)) if config else None
        return terms
    return {key: value for key, value in terms.items() if getattr(before, key) != value}


def _missing(its: Watched, ledger: Ledger | None, before: VM | None, since: datetime, hour: datetime) -> int:
    """The bytes that the script has counted and the ledger lacks. The ledger's usage of the period until the last
    measurement, metered here or taken over before, is in the script's sum too."""
    hours = usagelog.hours(ledger, before.id, since) if ledger and before else []
    return max(0, its.used_bytes - sum(sum(usage) for at, usage in hours if hour_of(at) <= hour))


def _do(step: _Step, ledger: Ledger, context: Context) -> None:
    if not step.changes:
        return
    at = context.moment(ledger).at
    vm = ledger.meet(step.name, at)
    if step.terms:
        ledger.set_vm(vm.id, **vmlog.added(ledger, vm, at), **step.terms)
    if step.missing:
        usagelog.credit(ledger, vm.id, step.since, step.hour, step.missing)
    limit, missing = format_size(step.watched.limit_bytes or 0), format_size(step.missing)
    what = f"limit {limit}, {missing} of usage" if step.terms else f"{missing} of usage"
    ledger.record(at, "added", f"{step.name}: taken over from xen-bandwidth-monitor: {what}", vm.id)


def _tell(steps: Sequence[_Step], options: Namespace, context: Context) -> None:
    zone = context.settings.period.timezone
    rows = []
    for step in steps:
        its, before, limit = step.watched, step.before, format_size(step.watched.limit_bytes or 0)
        kept = before is not None and not step.terms
        allowance = allowance_of(before, context.settings.default_allowance) if before and kept else None
        own = allowance.limit_bytes if allowance else its.limit_bytes
        if allowance and allowance.count not in (Count.TOTAL, Count.IN):
            warn(f"note: {step.name} counts {allowance.count}; the script's sum is filed as in")
        rows.append(
            (
                step.name,
                limit,
                ("unlimited" if own is None else format_size(own)) + (" (kept)" if own != its.limit_bytes else ""),
                format_size(its.used_bytes) if its.measured_at else "-",
                format_size(step.missing),
                local_time(its.measured_at, zone) if its.measured_at else "not this period",
            )
        )
    say(render(_COLUMNS, rows) if rows else "there is nothing to take over")
    if options.dry_run:
        say("nothing was written")
    elif rows:
        say("stop the script's cron job for good, then start xenbwd: systemctl start xenbwd")


COMMAND = Command(arguments, run)

"""xenbw report --json vnstat: read the traffic of VMs for a document in vnStat's shape."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from xenbw.ledger import history
from xenbw.ledger.ledger import Ledger
from xenbw.model import VM, Span
from xenbw.report.period import Values
from xenbw.report.vnstat import KEPT, Traffic

_EVER = datetime(1970, 1, 1, tzinfo=UTC)


def traffic(ledger: Ledger, vms: Iterable[VM], zone: ZoneInfo, now: datetime) -> list[Traffic]:
    """The traffic of these VMs. Raises LedgerError."""
    alive = ledger.alive()
    found = []
    for vm in vms:
        updated = vm.found_at if alive is None else max(alive.at, vm.found_at)
        found.append(
            Traffic(vm.name, vm.found_at, updated, {span: _values(ledger, vm, span, zone, now) for span in Span})
        )
    return found


def _values(ledger: Ledger, vm: VM, span: Span, zone: ZoneInfo, now: datetime) -> Values:
    """The VM's values of a span, as far back as they are shown; all days, of which the top days are chosen."""
    kept = None if span is Span.DAY else KEPT[span]
    since = _EVER if kept is None else history.begin_of(span, now - kept * timedelta(seconds=span), zone)
    return history.values(ledger, vm.id, span, since, now, zone)

"""How long the HTML report of 1000 VMs takes: all pages, and the same pages five minutes later.

Every VM has traffic in all five minutes, so every page changes.
"""

from __future__ import annotations

import tempfile
import time
from datetime import timedelta
from pathlib import Path

from benchmarks.figure import Figure
from tests.support import seeded
from tests.support.books import add_vm, start_vif
from tests.support.clock import HandClock
from xenbw.cli import htmlreport
from xenbw.cli.command import Context
from xenbw.clock import boot_id
from xenbw.config import DaemonSection, HostSection, LedgerSection, PeriodSection, Settings
from xenbw.ledger.ledger import Ledger
from xenbw.runner import run

VMS = 1000
_LIMIT = 30.0
_GB = 10**9


def measure(vms: int = VMS) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder, clock = Path(name), HandClock(seeded.NOW)
        _fill(folder / "ledger.db", vms)
        settings = Settings(
            host=HostSection("dom0-a"),
            ledger=LedgerSection(folder / "ledger.db"),
            daemon=DaemonSection(folder),
            period=PeriodSection(clock_wait=0),
        )
        figures = []
        for what in (f"the pages of {vms} VMs, all new", "  all changed, five minutes later"):
            begin, busy = time.monotonic(), time.process_time()
            htmlreport.write(folder / "site", Context(settings, run, clock))
            figures.append(Figure(what, time.monotonic() - begin, "s", _LIMIT))
            figures.append(Figure("  processor time", time.process_time() - busy, "s"))
            clock.go(minutes=5)
        size = sum(file.stat().st_size for file in (folder / "site").rglob("*") if file.is_file())
        return [*figures, Figure("  their size", size / 1e6, "MB")]


def _fill(path: Path, vms: int) -> None:
    """One VM with traffic, and others with the same."""
    ledger = Ledger.open(path, create=True)
    # A little longer than the first report needs, for the second one.
    guest = seeded.Guest("vm-0000", 0.4 * _GB, 1.2 * _GB, {"limit_bytes": 5000 * _GB})
    seeded.fill(ledger, (guest,), seeded.NOW + timedelta(minutes=10))
    with ledger.transaction():
        ids = [add_vm(ledger, f"vm-{at:04}", seeded.NOW, limit_bytes=5000 * _GB) for at in range(1, vms)]
        for vm_id in ids:
            start_vif(ledger, f"vm-{vm_id - 1:04}", seeded.NOW, domid=vm_id, boot_id=boot_id())
    with ledger.transaction() as db:
        db.execute(
            "UPDATE vm SET period_start = (SELECT min(period_start) FROM vm WHERE id = 1), period_rule = '1@UTC'"
        )
        for table in ("usage", "history"):
            names = ", ".join(row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] != "vm_id")
            copied = f"INSERT INTO {table} (vm_id, {names}) SELECT ?, {names} FROM {table} WHERE vm_id = 1"  # noqa: S608
            db.executemany(copied, [(vm_id,) for vm_id in ids])
    ledger.close()

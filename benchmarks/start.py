"""How long an admin waits for `xenbw list` with 100 VMs, beside a bare start of Python."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figure import Figure, milliseconds
from tests.support.console import Console
from xenbw import config
from xenbw.accounting import Pending, Share, hour_of
from xenbw.clock import Moment, boot_id
from xenbw.judge.roster import Roster
from xenbw.ledger import usagelog
from xenbw.ledger.ledger import Alive

_PYTHON = "/usr/bin/python3"
_GB = 1_000_000_000
_VMS = 100
_RUNS = 15
_TARGET = 150.0
# What the installed program does.
_PROGRAM = "import sys; from xenbw.cli.main import main; sys.exit(main())"


def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        console = Console(Path(folder))
        _fill(console)
        listing, bare = _in_turns(console, [_PYTHON, "-c", _PROGRAM, "list"], [_PYTHON, "-c", "pass"])
    peer = ("a bare start of Python", milliseconds(bare))
    return [Figure(f"xenbw list, {_VMS} VMs", milliseconds(listing), "ms", _TARGET, peer)]


def _fill(console: Console) -> None:
    """A ledger of VMs that run with one vif each, have an allowance and used some of it."""
    now = datetime.now(UTC)
    with console.ledger() as ledger:
        for n in range(_VMS):
            vm = ledger.meet(f"vm-{n:03}", now)
            ledger.set_vm(vm.id, added_at=now, limit_bytes=500 * _GB)
            console.runs(vm.name, f"vif{n + 1}.0", f"192.0.2.{n + 1}")
        roster = Roster(ledger, config.load(console.config))
        roster.load(Moment(now, trusted=True))
        shares = [
            (vm_id, Share(entry.period.start, hour_of(now), vm_id * _GB, _GB, 0))
            for vm_id, entry in roster.entries.items()
        ]
        usagelog.commit(
            ledger, Pending((), tuple(shares)), Alive(now, time.clock_gettime(time.CLOCK_BOOTTIME), boot_id())
        )


def _in_turns(console: Console, *commands: Sequence[str]) -> list[list[float]]:
    """Seconds that each command takes, time and again, after one run of each that is not counted."""
    taken: list[list[float]] = [[] for _ in commands]
    for _ in range(_RUNS + 1):
        for seconds, command in zip(taken, commands, strict=True):
            begin = time.perf_counter()
            subprocess.run(command, env=console.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            seconds.append(time.perf_counter() - begin)
    return [seconds[1:] for seconds in taken]

"""The memory of xenbwd on a host of 1000 running VMs: resident set, including shared libraries."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.rig import PYTHON, Rig, vm_name
from tests.support.pace import until

_TARGET = 45.0
_CYCLES = 12
_BLOCKED = 20


def measure() -> list[Figure]:
    peer = ("a Python that idles", _idle_python())
    with Rig() as rig:
        rig.grow(1000)
        daemon = rig.start_daemon()
        begun = _resident(daemon)
        _let_work(rig)
        worked = _resident(daemon)
        for n in range(_BLOCKED):
            rig.block(vm_name(n + 1))
        if not until(lambda: rig.ask("status")["null_routes"] == _BLOCKED):
            raise RuntimeError("xenbwd does not block")
        _let_work(rig)
        blocked = _resident(daemon)
    return [
        Figure("xenbwd at its start, 1000 vifs, RSS", begun, "MB", _TARGET, peer),
        Figure(f"xenbwd after {_CYCLES} cycles with every vif changed", worked, "MB", _TARGET, peer),
        Figure(f"xenbwd with {_BLOCKED} VMs blocked, {_CYCLES} cycles later", blocked, "MB", _TARGET, peer),
    ]


def _let_work(rig: Rig) -> None:
    """Wait for _CYCLES rounds of the daemon, one per second by default, with traffic of each VM in each round."""
    for _ in range(_CYCLES):
        rig.send_to_all()
        time.sleep(1)


def _resident(pid: int) -> float:
    """VmRSS in megabytes (proc(5); its kB are 1024 bytes)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:"))


def _idle_python() -> float:
    argv = [PYTHON, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 (a pipe was asked for)
        process.stdout.readline()
        return _resident(process.pid)

"""What tests of the hook ask a host."""

from __future__ import annotations

from pathlib import Path

from tests.support.guest import Guest
from tests.support.host import REPO, Host
from xenbw.ledger import blocklog
from xenbw.model import Binding, Cause

_PATIENT = """#!/usr/bin/python3 -IS
import sys
sys.path.append({lib!r})
from xenbw.hook import call
from xenbw.rundir import turn
turn.PATIENCE = call._LEDGER_PATIENCE = call._STORE_PATIENCE = 20
call.main()
"""


def be_patient(host: Host) -> None:
    """Hooks that run side by side wait for each other however busy the machine is. (In use a boot must not wait.)"""
    program = host.directory / "patient-hook"
    program.write_text(_PATIENT.format(lib=str(REPO)))
    program.chmod(0o755)
    host.hook_env["XENBW_HOOK"] = str(program)


def live(host: Host) -> list[Binding]:
    return sorted(host.ledger().live_bindings().values(), key=lambda binding: (binding.domid, binding.devid))


def blocked_vm(host: Host, name: str) -> None:
    """A VM that is blocked in the ledger; no daemon applies the block to the kernel."""
    host.add(name)
    ledger = host.ledger()
    vm = ledger.vm_named(name)
    assert vm is not None
    blocklog.block(ledger, vm.id, Cause.QUOTA, "over its allowance", vm.found_at, None)


def pending(host: Host) -> list[Path]:
    folder = host.run_dir / "pending"
    return sorted(folder.iterdir()) if folder.exists() else []


def succeeded(guest: Guest) -> bool:
    """The vif scripts exited with 0 and printed nothing on xl's terminal."""
    return all((run.returncode, run.stdout, run.stderr) == (0, "", "") for run in guest.scripts)

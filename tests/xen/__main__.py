"""python3 -m tests.xen: the package on a real Xen, in emulation. See README.md beside this file."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event

from tests.xen.machine import EmulatorError, Machine, MachineError, image, impossible_flags

_HERE = Path(__file__).parent
_REPO = _HERE.parent.parent
# Seconds. A run takes half an hour on two idle cores, and on slow ones it took four times as long.
_LIMIT = 4 * 3600.0
# Most work in dom0 keeps one processor busy, so two machines take little longer than one. The reboot comes last.
_SHARES = {"A": "test_[1-5]*", "B": "test_[6-9]*"}
_BEFORE_REBOOT, _AFTER_REBOOT = "test_95_before_reboot.py", "after_reboot"
# A share needs another machine whenever the emulator fails: where it did so at all, it did about once in an hour.
_MACHINES = 5
_SMOKE = "smoke"
_STAY_LIMIT = 12 * 3600.0


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    built = image(options.suite)
    _alone(built)
    options.results /= options.suite
    stop = Event()
    run = partial(_run, built, options, stop)
    if options.stay:
        return run(_stay)
    if options.smoke or options.pytest:
        return run(lambda machine: _pytest(machine, options.pytest or [_SMOKE]))
    with ThreadPoolExecutor() as together:
        try:
            return max(together.map(run, [_Share(pattern).play for pattern in _SHARES.values()], _SHARES))
        finally:
            stop.set()


def _run(built: Path, options: argparse.Namespace, stop: Event, tests: Callable[[Machine], int], name: str = "") -> int:
    """Run the tests on a machine, and on another one if the emulator failed: what is left of a share, else all."""
    for _ in range(_MACHINES):
        try:
            return _play(built, options, stop, tests, name)
        except EmulatorError as error:
            # tools/steps puts the number of lines that begin like this beside the step that passed.
            print(f"warning: xen: {error}", flush=True)
    return 1


def _play(built: Path, options: argparse.Namespace, stop: Event, tests: Callable[[Machine], int], name: str) -> int:
    """Boot a machine and run the given tests on it; returns their status. EmulatorError if the emulator failed."""
    started = time.monotonic()
    with Machine(built, _STAY_LIMIT if options.stay else _LIMIT, stop, name) as machine:
        try:
            _equip(machine, options)
            machine.wait_until_up()
            machine.say(f"xen: {options.suite} dom0 is up after {time.monotonic() - started:.0f} s\n".encode())
            return tests(machine)
        except MachineError as error:
            machine.say(f"{machine.last_words()}\nxen: {error}\n".encode())
            if isinstance(error, EmulatorError):
                raise
            return 1
        finally:
            _keep(machine, options.results / name)
            machine.say(f"xen: {time.monotonic() - started:.0f} s\n".encode())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m tests.xen", description="Run the scenarios on a real Xen.")
    parser.add_argument("--deb", type=Path, help="the package to test (default: the one in dist/)")
    parser.add_argument("--suite", default="bookworm", help="dom0's Debian: bookworm (the default) or trixie")
    parser.add_argument("--results", type=Path, default=_REPO / "build" / "xen", help="where to put what dom0 leaves")
    parser.add_argument("--smoke", action="store_true", help="one boot, and one scenario that touches everything")
    parser.add_argument("--stay", action="store_true", help="boot, and run scripts as they come (see README.md)")
    parser.add_argument(
        "pytest", nargs="*", help="arguments for pytest in dom0, such as test_30_meter.py; default: all"
    )
    return parser.parse_args()


def _alone(built: Path) -> None:
    """Wait for another run on this machine to end: two runs on a few cores would make each other's tests time out."""
    lock = os.open(built.with_name("xen.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)


def _only(pattern: str) -> Path:
    found = sorted(_REPO.glob(pattern))
    if len(found) != 1:
        sys.exit(f"xen: {len(found)} files are {pattern}; run: make deb")
    return found[0]


def _equip(machine: Machine, options: argparse.Namespace) -> None:
    """Put the files that the scenarios need into dom0's /rig."""
    shutil.copy(options.deb or _only("dist/xenbw_*_all.deb"), machine.shared / "xenbw.deb")
    shutil.copy(_only("tests/deb/previous/xenbw_0.1.0_all.deb"), machine.shared / "previous.deb")
    _give_scenarios(machine)


def _give_scenarios(machine: Machine) -> None:
    given = machine.shared / "scenarios"
    shutil.rmtree(given, ignore_errors=True)
    shutil.copytree(_HERE / "scenarios", given, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_HERE.parent / "support/libxenstore.py", given / "rig")


class _Share:
    """Modules of scenarios that are played one after the other. A machine takes over where another one failed."""

    def __init__(self, pattern: str) -> None:
        self._left = sorted(path.name for path in (_HERE / "scenarios").glob(pattern))
        self._status = 0

    def play(self, machine: Machine) -> int:
        """Play what is left; returns 1 if any module of the share has failed. EmulatorError if the emulator failed."""
        while self._left:
            self._status = _module(machine, self._left[0]) or self._status
            del self._left[0]
        return self._status


def _module(machine: Machine, name: str) -> int:
    """Play one module, with the reboot of dom0 that follows it."""
    status = _pytest(machine, [name])
    if name != _BEFORE_REBOOT:
        return status
    machine.reboot()
    machine.say(b"xen: dom0 is up again\n")
    return _pytest(machine, [_AFTER_REBOOT]) or status


def _pytest(machine: Machine, arguments: list[str]) -> int:
    return machine.run(["pytest-3", *arguments]) and _failed(machine)


def _stay(machine: Machine) -> int:
    """Run each line of our input as a shell command in dom0, each time with a fresh copy of the scenarios."""
    print("xen: lines are run in dom0; reboot reboots it; end of input ends it", flush=True)
    for line in sys.stdin:
        _give_scenarios(machine)
        if line.strip() == "reboot":
            machine.reboot()
        else:
            print(f"xen: status {machine.run_script(line)}", flush=True)
    return 0


def _failed(machine: Machine) -> int:
    """The status of a failed run. EmulatorError if a guest's console tells that the emulator failed."""
    consoles = [log.read_bytes() for log in (machine.shared / "results").glob("*/xen/guest-*.log")]
    if any(map(impossible_flags, consoles)):
        raise EmulatorError("a guest's kernel died with flags that no processor has: the emulator computed them")
    return 1


def _keep(machine: Machine, results: Path) -> None:
    """Copy the state of dom0 that failed scenarios saved (scenarios/conftest.py), and print where."""
    left = machine.shared / "results"
    if left.is_dir():
        shutil.copytree(left, results, dirs_exist_ok=True)
        for folder in sorted(left.iterdir()):
            machine.say(f"evidence: {results / folder.name}\n".encode())


if __name__ == "__main__":
    sys.exit(main())

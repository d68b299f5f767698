"""With the daemon dead, the rules flushed and another fault, guests boot, and guests that are over stay blocked."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from rig import guest, outside, package, shell
from rig.guest import Guest
from rig.park import Pair

_STATE, _RUN = Path("/var/lib/xenbw"), Path("/run/xenbw")
_HOOK = Path("/usr/lib/python3/dist-packages/xenbw/hook/call.py")


@pytest.fixture(scope="module", autouse=True)
def over(pair: Pair) -> Iterator[None]:
    """web1 is over its allowance."""
    package.send_over("web1")
    yield
    package.release("web1")


@contextlib.contextmanager
def _ledger_read_only() -> Iterator[None]:
    """The ledger is read-only, and the daemon never ran since dom0 booted: only the ledger tells which VMs are over."""
    (_RUN / "over").rename(_RUN / "over.away")
    shell.run("mount", "--bind", str(_STATE), str(_STATE))
    shell.run("mount", "-o", "remount,ro,bind", str(_STATE))
    try:
        yield
    finally:
        shell.run("umount", str(_STATE))
        (_RUN / "over.away").rename(_RUN / "over")


@contextlib.contextmanager
def _disk_full() -> Iterator[None]:
    """The ledger is on a small disk that is full."""
    shell.run("cp", "-a", f"{_STATE}/.", "/var/tmp/xenbw")
    shell.run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(_STATE))
    try:
        shell.run("cp", "-a", "/var/tmp/xenbw/.", str(_STATE))
        _fill(_STATE / "filler")
        yield
    finally:
        shell.run("umount", str(_STATE))
        shutil.rmtree("/var/tmp/xenbw")


def _fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(os.urandom(4096))


@contextlib.contextmanager
def _python_broken() -> Iterator[None]:
    good = _HOOK.read_text()
    _HOOK.write_text("this is not Python\n")
    try:
        yield
    finally:
        _HOOK.write_text(good)


_Harm = Callable[[], AbstractContextManager[None]]


@contextlib.contextmanager
def _restarted_under(harm: _Harm, pair: Pair) -> Iterator[int]:
    """Start both guests with the daemon dead and the rules flushed; yields a mark of the capture before their start."""
    shell.together(["xl", "destroy", "web1"], ["xl", "destroy", "db1"])
    package.stop_daemon()
    try:
        with harm():
            since = outside.mark()
            guest.create(pair.web, pair.db)
            yield since
    finally:
        package.start_daemon()


@pytest.mark.parametrize("harm", [_ledger_read_only, _disk_full])
def test_every_guest_boots_with_its_network_and_a_guest_that_is_over_is_blocked(harm: _Harm, pair: Pair) -> None:
    with _restarted_under(harm, pair) as since:
        assert pair.db.pings("10.77.0.2", "fd77::2")
        assert pair.web.silent("10.77.0.1", "10.77.0.2", "10.77.0.12", "fd77::2")
        assert outside.packets(since, pair.web) == []


def test_with_xenbws_python_broken_every_guest_boots_with_its_network(pair: Pair) -> None:
    with _restarted_under(_python_broken, pair):
        assert pair.db.pings("10.77.0.2", "fd77::2")


def test_a_guest_that_was_over_is_blocked_again_once_the_fault_is_repaired(web: Guest, db: Guest) -> None:
    assert web.silent("10.77.0.1", "10.77.0.2", "fd77::2")
    assert db.pings("10.77.0.2")


def test_traffic_during_the_fault_is_counted(db: Guest) -> None:
    package.settled(db)

"""Upgrades that fail half-way: blocks hold, metering goes on or comes back, and repeating the upgrade succeeds."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deb import package
from tests.deb.machine import Machine
from tests.deb.throughout import throughout
from tests.support.guest import Guest
from tests.support.pace import until

WEB = ("10.50.0.11", "fd50::11")


@pytest.fixture
def over(clean: None, machine: Machine) -> Guest:
    """A guest that is over its allowance, under the previous version."""
    package.apt("install", package.PREVIOUS)
    guest = machine.start("web1", WEB)
    machine.add("web1", "1MB")
    machine.push_over(guest, WEB)
    return guest


def assert_upgraded(machine: Machine) -> None:
    """Check the state after a successful upgrade."""
    assert (package.state(), package.version()) == ("ii", package.built().name.split("_")[1])
    assert until(package.running, 30)
    assert package.run("dpkg", "--audit").stdout == ""
    assert package.run("dpkg", "--verify", "xenbw").stdout == ""
    assert machine.show("web1")["state"] == "over"
    assert machine.null_routed(*WEB)


def kill_dpkg(after: float) -> None:
    """Start the upgrade, and after so many seconds kill dpkg and all its children with SIGKILL."""
    process = subprocess.Popen(
        ["dpkg", "--force-confold", "--install", package.built()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(after)
    os.killpg(process.pid, 9)
    process.wait()


def repeat() -> None:
    """Repeat the upgrade as apt and dpkg advise the admin."""
    package.run("dpkg", "--configure", "--pending", check=False)
    package.apt("install", "--reinstall", package.built())


@contextmanager
def full_disk(left: int) -> Iterator[None]:
    """Fill the machine's disk up to so many free bytes."""
    ballast = Path("/srv/ballast")
    disk = os.statvfs("/")
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - left)
    try:
        yield
    finally:
        ballast.unlink()


def test_dpkg_is_killed_at_any_moment(machine: Machine, over: Guest) -> None:
    with throughout(lambda: machine.null_routed(*WEB)):
        for seconds in (0.1, 0.2, 0.3, 0.5, 0.8):
            kill_dpkg(seconds)
            over.reboot()
            assert over.scripts[-1].returncode == 0
            assert not over.ping("10.50.0.2")
        repeat()
    assert_upgraded(machine)


def test_the_machine_stops_between_unpacking_and_configuring(machine: Machine, over: Guest) -> None:
    package.run("dpkg", "--unpack", package.built())
    assert package.state() == "iU"
    # The previous version's daemon still runs, from deleted files.
    assert package.running()
    over.reboot()
    assert machine.null_routed(*WEB)
    package.run("systemctl", "kill", "--signal=KILL", package.UNIT)
    package.run("dpkg", "--configure", "--pending")
    assert_upgraded(machine)


def test_the_disk_is_full(machine: Machine, over: Guest) -> None:
    # Delete the bytecode first, or the upgrade would get the room that it takes.
    package.run("py3clean", "--package", "xenbw")
    with full_disk(left=200_000):
        done = package.apt("install", package.built(), check=False)
        assert done.returncode != 0
        assert "No space left on device" in done.stdout + done.stderr
        assert machine.null_routed(*WEB)
        over.reboot()
        assert over.scripts[-1].returncode == 0
        assert not over.ping("10.50.0.2")
    repeat()
    assert_upgraded(machine)


def test_the_new_daemon_cannot_start(machine: Machine, over: Guest) -> None:
    own = Path("/etc/xenbw/xenbw.toml.d/own.toml")
    own.parent.mkdir()
    own.write_text("[period]\nreset_day = 99\n")
    package.apt("install", package.built())
    assert package.state() == "ii"
    assert not package.running()
    assert "own.toml" in package.journal()
    assert machine.null_routed(*WEB)
    # systemd tries again and again, so the admin only has to repair the cause.
    own.unlink()
    assert_upgraded(machine)


def test_a_step_of_the_configuration_fails(machine: Machine, over: Guest) -> None:
    package.run("dpkg-divert", "--local", "--rename", "--add", "/usr/bin/py3compile")
    Path("/usr/bin/py3compile").write_text("#!/bin/sh\nexit 1\n")
    Path("/usr/bin/py3compile").chmod(0o755)
    done = package.apt("install", package.built(), check=False)
    assert done.returncode != 0
    assert package.state() == "iF"
    assert package.running()
    assert machine.null_routed(*WEB)
    Path("/usr/bin/py3compile").unlink()
    package.run("dpkg-divert", "--local", "--rename", "--remove", "/usr/bin/py3compile")
    package.run("dpkg", "--configure", "--pending")
    assert_upgraded(machine)

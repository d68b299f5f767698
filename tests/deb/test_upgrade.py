"""An upgrade from each earlier release, under traffic; one guest is null-routed and another restarts."""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.deb import package
from tests.deb.machine import Machine
from tests.deb.throughout import repeating, throughout
from tests.support.guest import Guest, agree
from tests.support.pace import busy, until

WEB = ("10.50.0.11", "fd50::11")


@pytest.fixture(params=package.RELEASES, ids=lambda deb: deb.name.split("_")[1])
def previous(request: pytest.FixtureRequest, clean: None) -> Path:
    """An earlier release's package, which is installed on the machine."""
    release: Path = request.param
    package.apt("install", release)
    return release


@pytest.fixture
def web(previous: Path, machine: Machine) -> Guest:
    """A guest that is over its allowance and null-routed."""
    guest = machine.start("web1", WEB)
    machine.add("web1", "1MB")
    machine.push_over(guest, WEB)
    return guest


@pytest.fixture
def db(previous: Path, machine: Machine) -> Guest:
    """A guest without a limit."""
    guest = machine.start("db1", ("10.50.0.12", "fd50::12"))
    machine.add("db1", "500GB")
    return guest


def upgrade() -> None:
    # During development the package may have the last release's version, and apt would not install it.
    package.run("dpkg", "--install", package.built())
    assert (package.state(), package.running()) == ("ii", True)


def schema_of(ledger: Path) -> int:
    with closing(sqlite3.connect(ledger)) as db:
        version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


@pytest.mark.smoke
def test_no_byte_is_lost_and_metering_pauses_for_less_than_two_seconds(
    machine: Machine, db: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    def talk() -> None:
        db.send(40_000)
        db.receive(40_000)
        # Our counters and the kernel's are compared once, exactly only in a moment without traffic.
        time.sleep(0.01)

    with repeating(talk):
        upgrade()
    stopped, ready = (
        int(stamp) for stamp in package.unit("ActiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    )
    pause = (ready - stopped) / 1e6
    with capsys.disabled():
        sys.stdout.write(f"\nthe upgrade paused the metering for {pause:.2f} s\n")
    assert 0 < pause < busy(2)
    # 0.1.0 used the kernel's counters.
    assert until(lambda: agree(machine.metered(db), db.counters()), 15), (machine.metered(db), db.counters())


@pytest.mark.smoke
def test_the_null_routes_hold_all_the_time_and_no_packet_passes(machine: Machine, web: Guest) -> None:
    with throughout(lambda: machine.null_routed(*WEB)), throughout(lambda: web.send(2_000, timeout=0.02) == 0):
        upgrade()


def test_guests_start_and_stop_while_files_are_replaced(machine: Machine, db: Guest) -> None:
    def reboot() -> None:
        db.reboot()
        assert {(script.returncode, script.stdout) for script in db.scripts} == {(0, "")}

    with repeating(reboot):
        upgrade()
    # At least the last life, which the new version saw from its start, is fully metered.
    db.reboot()
    db.send(40_000)
    assert until(lambda: machine.metered(db) == db.counters(), 15), (machine.metered(db), db.counters())


def test_the_ledger_is_kept_with_a_copy_of_its_previous_version_beside_it(machine: Machine, web: Guest) -> None:
    before = machine.show("web1")
    schema = schema_of(package.LEDGER)
    upgrade()
    after = machine.show("web1")
    assert [block["since"] for block in after["blocks"]] == [block["since"] for block in before["blocks"]]
    assert after["used_bytes"] >= before["used_bytes"]
    assert after["limit_bytes"] == before["limit_bytes"]
    beside = package.LEDGER.with_name(f"ledger.db.schema{schema}")
    assert schema_of(beside) == schema < schema_of(package.LEDGER)
    with closing(sqlite3.connect(beside)) as copy:
        assert copy.execute("SELECT name FROM vm").fetchall() == [("web1",)]


def test_the_admins_configuration_is_kept(machine: Machine, web: Guest) -> None:
    own = "[period]\nreset_day = 15\n"
    package.CONFIG.write_text(own)
    package.run("dpkg", "--force-confold", "--install", package.built())
    assert package.CONFIG.read_text() == own
    assert package.running()


def test_the_previous_version_refuses_the_newer_ledger_unchanged_and_the_blocks_stay(
    machine: Machine, web: Guest, previous: Path
) -> None:
    upgrade()
    package.run("systemctl", "stop", package.UNIT)
    before = package.LEDGER.read_bytes()
    # 0.2.0 looks at the ledger while it is installed, and 0.1.0 when its daemon starts.
    done = package.run("dpkg", "--force-downgrade", "--install", previous, check=False)
    assert until(lambda: "written by a newer xenbw" in done.stderr + package.journal(), 15), done
    assert "upgrade xenbw; the ledger was left untouched" in done.stderr + package.journal()
    assert package.LEDGER.read_bytes() == before
    assert machine.null_routed(*WEB)
    upgrade()
    assert machine.show("web1")["state"] == "over"

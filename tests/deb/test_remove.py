"""After the package's removal no guest is blocked; after a purge no trace is left."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.deb import package
from tests.deb.machine import Machine
from tests.support.guest import Guest
from tests.support.pace import until

WEB = ("10.50.0.11", "fd50::11")
NOTIFY = "xenbw-notify.service"
HOOK = Path("/etc/xen/scripts/vif-post.d/xenbw.hook")


@pytest.fixture
def over(installed: None, machine: Machine) -> Guest:
    """A running guest that is over its allowance and null-routed."""
    guest = machine.start("web1", WEB)
    machine.add("web1", "1MB")
    machine.push_over(guest, WEB)
    return guest


def free(guest: Guest) -> bool:
    return guest.ping("10.50.0.2") and guest.ping("fd50::2")


@pytest.mark.smoke
def test_removing_the_package_stops_the_metering_and_releases_the_guests(machine: Machine, over: Guest) -> None:
    assert not free(over)
    package.apt("remove", "xenbw")
    assert free(over)
    assert not any("XENBW" in rule for rule in package.rules())
    assert package.unit("LoadState", "ActiveState") == ["not-found", "inactive"]
    assert package.run("pgrep", "-f", "xenbwd", check=False).stdout == ""


def test_removing_the_package_leaves_other_programs_rules_alone(machine: Machine, over: Guest) -> None:
    theirs = ["-A FORWARD -s 192.0.2.1/32 -j DROP", "-N THEIRS", "-A THEIRS -j RETURN"]
    package.run("iptables-legacy", "-N", "THEIRS")
    package.run("iptables-legacy", "-A", "THEIRS", "-j", "RETURN")
    package.run("iptables-legacy", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP")
    package.apt("remove", "xenbw")
    assert set(theirs) <= set(package.rules())
    package.run("iptables-legacy", "-D", "FORWARD", "-s", "192.0.2.1", "-j", "DROP")
    package.run("iptables-legacy", "-F", "THEIRS")
    package.run("iptables-legacy", "-X", "THEIRS")


def test_the_hook_that_stays_as_a_conffile_does_nothing(machine: Machine, over: Guest) -> None:
    package.apt("remove", "xenbw")
    assert package.state() == "rc"
    assert HOOK.stat().st_mode & 0o111
    over.reboot()
    assert [script.returncode for script in over.scripts] == [0] * len(over.scripts)
    assert not any(script.stdout for script in over.scripts)
    assert free(over)


def test_the_package_installed_again_goes_on_with_its_ledger(machine: Machine, over: Guest) -> None:
    used = machine.show("web1")["used_bytes"]
    package.apt("remove", "xenbw")
    package.apt("install", package.built())
    assert until(lambda: machine.null_routed(*WEB), 30)
    again = machine.show("web1")
    assert (again["state"], again["used_bytes"] >= used) == ("over", True)


def test_removing_the_package_ends_a_delivery_under_way(machine: Machine, over: Guest) -> None:
    own = Path("/etc/xenbw/xenbw.toml.d/own.toml")
    own.parent.mkdir()
    own.write_text('[command]\nrun = ["/bin/sleep", "60"]\n')
    package.run("systemctl", "reload", package.UNIT)
    machine.xenbw("lift", "web1")
    assert until(lambda: package.unit("ActiveState", name=NOTIFY) == ["activating"], 15)
    package.apt("remove", "xenbw")
    assert package.unit("LoadState", "ActiveState", name=NOTIFY) == ["not-found", "inactive"]
    assert package.run("pgrep", "-f", "/usr/lib/xenbw/notify", check=False).stdout == ""


def test_a_guest_that_starts_during_the_removal_leaves_no_bytecode(machine: Machine, over: Guest) -> None:
    # prerm deletes the bytecode, and dpkg then only its own files; a vif script may run in between.
    package.run("/var/lib/dpkg/info/xenbw.prerm", "remove")
    over.reboot()
    package.run("dpkg", "--remove", "xenbw")
    assert not Path("/usr/lib/python3/dist-packages/xenbw").exists()


@pytest.mark.smoke
def test_a_purge_deletes_configuration_and_ledger(machine: Machine, over: Guest) -> None:
    package.apt("purge", "xenbw")
    assert package.state() == ""
    for path in ("/etc/xenbw", "/var/lib/xenbw", "/run/xenbw", "/etc/default/xenbw", HOOK):
        assert not Path(path).exists()


def test_a_removal_and_a_later_purge_delete_the_same(machine: Machine, over: Guest) -> None:
    package.apt("remove", "xenbw")
    assert Path("/var/lib/xenbw/ledger.db").exists()
    package.apt("purge", "xenbw")
    assert not Path("/var/lib/xenbw").exists()


def test_each_maintainer_script_can_be_run_again(machine: Machine, over: Guest) -> None:
    for call in ("postinst configure", "prerm upgrade 9.9", "postrm upgrade 9.9", "postinst abort-upgrade 9.9"):
        script, *arguments = call.split()
        for _ in range(2):
            package.run(f"/var/lib/dpkg/info/xenbw.{script}", *arguments)
        assert machine.null_routed(*WEB), call
    assert package.running()
    with closing(sqlite3.connect(package.LEDGER)) as ledger:
        assert ledger.execute("SELECT name FROM vm").fetchall() == [("web1",)]

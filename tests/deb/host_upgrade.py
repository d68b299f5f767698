"""Debian 12 with the package and VMs on it is upgraded to 13: no byte is lost, and blocks hold at every moment.

Only tests/deb/run OLD+NEW runs this, on a machine that has the packages of the new Debian in /srv/next.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deb import package
from tests.deb.machine import Machine
from tests.deb.throughout import repeating
from tests.support.ears import Ear
from tests.support.guest import Guest, ScriptError, agree
from tests.support.pace import until

NEXT = Path("/srv/next")
WEB, SHOP, DB = ("10.50.0.11", "fd50::11"), ("10.50.0.12", "fd50::12"), ("10.50.0.13", "fd50::13")
IPTABLES = ("iptables-legacy-save", "ip6tables-legacy-save")
PACKET = 1_000


@dataclass
class Host:
    """The machine after its upgrade. web and shop are over their allowances, and shop started again and again; db is in
    good standing and had traffic all the time.

    before: `xenbw show web1` before the upgrade. heard: frames from web and shop that arrived outside meanwhile. looks:
    whether web's null routes stood, at each look that was possible. starts: how often shop started, failures: how often
    its vif script failed, since programs were missing just then.
    """

    machine: Machine
    web: Guest
    shop: Guest
    db: Guest
    before: dict[str, Any]
    heard: list[bytes] = field(default_factory=list)
    looks: list[bool] = field(default_factory=list)
    starts: int = 0
    failures: int = 0

    def talk(self) -> None:
        self.db.send(40_000)
        self.db.receive(40_000)
        time.sleep(0.05)

    def listen(self, ear: Ear) -> None:
        """Keep the frames of blocked VMs, before the ear is full of db's."""
        macs = [bytes.fromhex(guest.cards[0].mac.replace(":", "")) for guest in (self.web, self.shop)]
        self.heard += [heard.frame for heard in ear.heard() if heard.frame[6:12] in macs]
        time.sleep(0.05)

    def shout(self) -> None:
        self.web.send(PACKET, timeout=0.02)
        self.web.send(PACKET, version=6, timeout=0.02)

    def look(self) -> None:
        """Look at web's null routes, if the programs that show them are there and run."""
        time.sleep(0.1)
        try:
            self.looks.append(self.machine.null_routed(*WEB))
        except (OSError, subprocess.SubprocessError):
            return

    def restart(self) -> None:
        """Start shop again; while it runs it sends to the host outside."""
        try:
            if self.shop.running:
                self.shop.destroy()
            self.shop.start()
            self.starts += 1
            for _ in range(10):
                self.shop.send(PACKET, timeout=0.02)
        except (ScriptError, OSError, subprocess.SubprocessError):
            self.failures += 1
        time.sleep(1)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    package.apt("install", package.built())
    with Machine() as machine:
        web, shop, db = (machine.start(name, ips) for name, ips in (("web1", WEB), ("shop", SHOP), ("db1", DB)))
        for guest, ips in ((web, WEB), (shop, SHOP)):
            machine.add(guest.name, "1MB")
            machine.push_over(guest, ips)
        machine.add("db1", "500GB")
        upgraded = Host(machine, web, shop, db, machine.show("web1"))
        with Ear(machine.outside) as ear:
            with ExitStack() as during:
                for work in (upgraded.talk, upgraded.shout, upgraded.look, upgraded.restart):
                    during.enter_context(repeating(work))
                during.enter_context(repeating(lambda: upgraded.listen(ear)))
                upgrade()
            upgraded.listen(ear)
        yield upgraded


def upgrade() -> None:
    """Upgrade all packages, as the release notes say, and keep the admin's configuration."""
    index = package.run("sh", "-ec", f"cd {NEXT}; exec dpkg-scanpackages -m .").stdout
    (NEXT / "Packages").write_text(index)
    Path("/etc/apt/sources.list").write_text(f"deb [trusted=yes] file:{NEXT} ./\n")
    package.run("apt-get", "-q", "update")
    log = Path("/srv/upgrade.log")
    with log.open("wb") as file:
        done = subprocess.run(
            ["apt-get", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", "dist-upgrade"],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            check=False,
            timeout=1800,
        )
    assert done.returncode == 0, log.read_text()[-4000:]


def test_the_host_is_the_new_debian(host: Host) -> None:
    assert "VERSION_CODENAME=trixie" in Path("/etc/os-release").read_text()
    assert package.run("dpkg", "--audit").stdout == ""
    assert package.state() == "ii"


def test_no_frame_of_a_blocked_vm_passed_at_any_moment(host: Host) -> None:
    sys.stdout.write(f"{host.starts} starts of a blocked VM, {host.failures} more failed; {len(host.looks)} looks\n")
    assert host.heard == []
    assert host.starts > 0


def test_null_routes_stood_at_each_look(host: Host) -> None:
    assert len(host.looks) > 100
    assert all(host.looks)


def test_the_daemon_metered_on_and_no_byte_is_lost(host: Host) -> None:
    assert package.running()
    assert until(lambda: agree(host.machine.metered(host.db), host.db.counters()), 15)


def test_the_daemon_starts_under_the_new_python_with_its_ledger_and_blocks(host: Host) -> None:
    used = host.machine.show("db1")["used_bytes"]
    package.run("systemctl", "restart", package.UNIT)
    package.await_running()
    assert Path(f"/proc/{package.main_pid()}/exe").readlink() == Path("/usr/bin/python3").resolve()
    web = host.machine.show("web1")
    assert (web["state"], web["limit_bytes"]) == ("over", host.before["limit_bytes"])
    assert [block["since"] for block in web["blocks"]] == [block["since"] for block in host.before["blocks"]]
    assert host.machine.show("db1")["used_bytes"] >= used
    assert until(lambda: host.machine.null_routed(*WEB, *SHOP))


def test_metering_and_blocks_go_on_as_before(host: Host) -> None:
    host.db.send(400_000)
    assert until(lambda: agree(host.machine.metered(host.db), host.db.counters()), 15)
    host.web.reboot()
    assert [script.returncode for script in host.web.scripts[-2:]] == [0, 0]
    assert host.web.send(100_000) == 0
    host.machine.xenbw("lift", "web1")
    assert until(lambda: host.web.send(PACKET) == PACKET)


def test_the_log_tells_of_no_error(host: Host) -> None:
    told = package.run("journalctl", "--unit", package.UNIT, "--priority=err", "--output=cat", "--no-pager").stdout
    assert told == ""

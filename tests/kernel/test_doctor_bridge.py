"""xenbw doctor sends packets over a real bridge, and leaves everything there as it was."""

from __future__ import annotations

import fcntl
import signal
import socket
import stat
import sys

import pytest

from tests.support.doctor import doctor, env, failures, told
from tests.support.dom0 import BRIDGE, OUTSIDE_ADDRESSES
from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import busy, until
from tests.support.story import LIMIT
from xenbw.model import Action


def state(host: Host) -> set[str]:
    """The state that doctor must leave unchanged: interfaces, addresses, bridges' tables and rules, a line each."""
    commands = (
        ["ip", "-o", "link"],
        ["ip", "-o", "addr"],
        ["bridge", "fdb"],
        ["sh", "-c", "nft list ruleset | sed 's/packets.*//'"],
        ["iptables-legacy-save", "-t", "filter"],
    )
    shown = "\n".join(host.run(argv, check=True).stdout for argv in commands)
    return {line for line in shown.splitlines() if line[:1] not in "#:"}


def put_back(host: Host, before: set[str]) -> None:
    """Wait until the state is as before: the kernel removes namespaces with a delay."""
    assert until(lambda: state(host) == before), sorted(state(host) ^ before)


def quiet_guests(host: Host) -> list[Guest]:
    """A guest in good standing and a blocked guest, without traffic."""
    guests = [host.start("web1"), host.start("web2")]
    host.xenbw("block", "web2")
    guests[0].ping("10.50.0.2")
    return guests


def test_on_a_real_bridge_meter_and_seal_are_proven_unnoticed_by_its_guests(running: Host) -> None:
    guests = quiet_guests(running)
    before, counters = state(running), [guest.counters() for guest in guests]
    found = told(running, "--on", BRIDGE)
    assert [one["level"] for one in found["meter"] if BRIDGE in one["text"]] == ["PASS"]
    assert [one["level"] for one in found["seal"] if BRIDGE in one["text"]] == ["PASS", "PASS"]
    assert "1 sealed interfaces stay sealed" in found["seal"][0]["text"]
    put_back(running, before)
    for guest, counted in zip(guests, counters, strict=True):
        # Only packets that an interface sends by itself now and then.
        assert guest.counters().in_bytes - counted.in_bytes < 1000
    assert running.ask("status")["meter_gaps"] == 0
    assert guests[0].reaches("10.50.0.2")
    assert not guests[1].ping("10.50.0.2")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_doctor_leaves_nothing_behind(running: Host, number: signal.Signals) -> None:
    quiet_guests(running)
    before = state(running)
    assert stopped_on_bridge(running, number) == 128 + number
    put_back(running, before)


def test_the_next_doctor_removes_the_remains_of_a_killed_one(running: Host) -> None:
    quiet_guests(running)
    before = state(running)
    assert stopped_on_bridge(running, signal.SIGKILL) == -signal.SIGKILL
    assert until(lambda: "xenbw-guest" not in running.run(["ip", "-o", "link"]).stdout)
    assert doctor(running, "--on", BRIDGE).returncode == 0
    put_back(running, before)


def test_on_a_real_bridge_the_throttles_of_its_guests_stay(running: Host) -> None:
    guest = running.start("web1")
    running.add("web1", limit_bytes=LIMIT, action=Action.THROTTLE, rate=10**6)
    running.ask("sync")
    assert guest.reaches(OUTSIDE_ADDRESSES[4])
    guest.send(2 * LIMIT)
    assert until(lambda: throttles(running) != [])
    running.kill_daemon()
    before = throttles(running)
    assert doctor(running, "--on", BRIDGE).stdout
    assert throttles(running) == before


def throttles(host: Host) -> list[str]:
    """The limit objects, and the elements of the maps that lead to them, as nft prints them."""
    table = host.run(["nft", "list", "table", "netdev", "xenbw"]).stdout
    return [line.strip() for line in table.splitlines() if "limit t" in line or '"t' in line]


def argv() -> list[str]:
    return ["env", "--default-signal=INT", sys.executable, "-m", "xenbw.cli.main", "doctor", "--on", BRIDGE]


def await_seal(host: Host) -> None:
    """Wait until doctor's guest on the real bridge is sealed, which makes a counter."""
    sealed = ["sh", "-c", "nft list counters | grep -q 'v0[.]0[.].*-refused-in'"]
    assert until(lambda: host.run(sealed).returncode == 0, seconds=60), (host.directory / "doctor.log").read_text()


def stopped_on_bridge(host: Host, number: signal.Signals) -> int:
    """Start doctor, and stop it once its guest on the real bridge is sealed; its exit status."""
    process = host.popen(argv(), output=host.directory / "doctor.log", env=env(host))
    await_seal(host)
    process.send_signal(number)
    return process.wait(timeout=busy(30))


def test_a_failing_doctor_leaves_nothing_behind_and_reports_the_failure(running: Host) -> None:
    quiet_guests(running)
    before = state(running)
    (running.bin_dir / "bridge").write_text("#!/bin/sh\nexit 7\n")
    (running.bin_dir / "bridge").chmod(0o755)
    found = told(running, "--on", BRIDGE)
    (running.bin_dir / "bridge").unlink()
    assert "bridge: exit status 7" in " ".join(failures(found))
    put_back(running, before)


def test_two_doctors_at_once_do_not_remove_each_others_guests(running: Host) -> None:
    with (running.run_dir / "doctor.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        running.namespace.ip("link add xenbw-guest type veth peer name its-eth0")
        assert "another xenbw doctor" in " ".join(failures(told(running, "--on", BRIDGE)))
        assert "xenbw-guest" in running.run(["ip", "-o", "link"]).stdout
    assert failures(told(running, "--on", BRIDGE)) == []


def test_only_root_can_keep_doctor_from_a_bridge(running: Host) -> None:
    with running.namespace.entered():
        users = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with users:
        users.bind("\0xenbw-doctor")
        assert failures(told(running, "--on", BRIDGE)) == []
    lock = (running.run_dir / "doctor.lock").stat()
    assert (stat.S_IMODE(lock.st_mode), lock.st_uid) == (0o600, 0)


def test_an_interface_that_is_not_a_bridge_is_a_usage_error(host: Host) -> None:
    done = doctor(host, "--on", "../outside")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("xenbw: ../outside: no Linux bridge of this host")

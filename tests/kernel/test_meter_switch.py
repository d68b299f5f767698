"""The admin changes the meter while our counters stand on a vif that is sealed or throttled: no byte counts twice."""

from __future__ import annotations

import signal

import pytest

from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import until
from xenbw.model import Action, Counters

pytestmark = pytest.mark.kernel

OUTSIDE = "10.50.0.2"


def measure_by(host: Host, meter: str) -> None:
    host.configure(f'[meter]\nsource = "{meter}"\n')
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGHUP)
    assert until(lambda: host.ask("status")["meter"] == meter)
    host.ask("commit")


def used(host: Host, guest: Guest) -> Counters:
    """The VM's usage once its traffic is over."""
    host.quiet(guest)
    return host.usage(guest.name)


def test_of_a_blocked_vm(running: Host) -> None:
    guest = running.start("web1")
    running.add("web1")
    assert guest.send(300_000) == 300_000
    running.xenbw("block", "web1")
    before = used(running, guest)
    measure_by(running, "kernel")
    measure_by(running, "nft")
    assert used(running, guest) == before
    running.xenbw("lift", "web1")


@pytest.fixture
def throttled(host: Host) -> Guest:
    """A throttled VM, which therefore has our counters, on a host whose meter is the kernel's."""
    host.configure('[meter]\nsource = "kernel"\n')
    host.start_daemon()
    guest = host.start("web1")
    host.add("web1", limit_bytes=1000, action=Action.THROTTLE, rate=80_000_000)
    host.ask("sync")
    assert guest.reaches(OUTSIDE)
    assert guest.send(300_000) > 0
    assert until(lambda: host.ask("status")["throttled"] == 1)
    assert guest.send(300_000) == 300_000
    return guest


def test_of_a_vm_that_ends_before_its_own_counters_are_read_again(host: Host, throttled: Guest) -> None:
    before = used(host, throttled)
    assert host.stop_daemon() == 0
    host.configure('[meter]\nsource = "nft"\n')
    throttled.stop()
    host.start_daemon()
    host.ask("commit")
    assert host.usage("web1") == before


@pytest.mark.parametrize("restart", [False, True])
def test_of_a_throttled_vm(host: Host, throttled: Guest, restart: bool) -> None:
    if restart:
        assert host.stop_daemon() == 0
        host.configure('[meter]\nsource = "nft"\n')
        host.start_daemon()
    else:
        measure_by(host, "nft")
    assert throttled.send(300_000) == 300_000
    counted = host.quiet(throttled)
    # The kernel's counters of a veth have the Ethernet headers of its guest's frames, ours have not.
    assert until(lambda: counted.out_bytes <= host.usage("web1").out_bytes < 1.02 * counted.out_bytes)
    assert host.usage("web1").in_bytes == counted.in_bytes

"""Ways round the block, tried from inside a guest that is over its allowance. Whether they lead anywhere is told by the
frames that others hear and by the guest's own card, not by xenbw."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.ears import Ear
from tests.support.evasions import EVASIONS, ROUTED, Evasion
from tests.support.host import Host
from tests.support.intruder import Intruder, force_up, pass_large_frames
from tests.support.pace import until

pytestmark = [pytest.mark.kernel, pytest.mark.xdist_group("evasions")]

LIMIT = 1_000_000


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host with a VM on the bridge, web1, and a routed one, web2, that are over their allowance, and one that is not.

    Its bridge is not seen by iptables: what Debian's default, br_netfilter not loaded, comes down to.
    """
    with Host() as machine:
        machine.start_daemon()
        machine.run(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0"], check=True)
        machine.start("db1")
        over = [machine.start("web1"), machine.start("web2", ("10.51.0.11",), script="vif-route")]
        pass_large_frames(machine)
        for guest in over:
            machine.add(guest.name, limit_bytes=LIMIT)
        machine.ask("sync")
        for guest in over:
            guest.send(LIMIT)
        assert until(lambda: machine.ask("status")["over"] == 2)
        yield machine


@pytest.fixture(scope="module")
def routed(host: Host) -> Iterator[Intruder]:
    """A blocked VM behind a vif of its own."""
    neighbour, _, guest = host.guests
    with Intruder(host, guest, neighbour) as intruder:
        yield intruder


@pytest.fixture(scope="module")
def bridged(host: Host) -> Iterator[Intruder]:
    """A blocked VM on the bridge."""
    neighbour, guest, _ = host.guests
    with Intruder(host, guest, neighbour) as intruder:
        yield intruder


@pytest.fixture(scope="module")
def forced_up(host: Host, bridged: Intruder) -> Iterator[Intruder]:
    """The same, with its link up whatever xenbw made of it and a daemon that cannot do anything about it: what holds is
    the rule on its interface alone."""
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGSTOP)
    force_up(host, bridged.guest)
    yield bridged
    host.daemon.send_signal(signal.SIGCONT)


def nothing_passes(me: Intruder, evasion: Evasion) -> None:
    """Neither from the guest nor to it."""
    before = me.guest.counters()
    _ = me.reached(), me.heard()
    evasion.act(me)
    me.address()
    time.sleep(0.03)
    assert me.reached() == {}
    assert (me.heard(), me.guest.counters().in_bytes) == (0, before.in_bytes)


@pytest.mark.parametrize("name", EVASIONS)
def test_nothing_of_a_blocked_vm_reaches_anybody_and_nothing_reaches_it(bridged: Intruder, name: str) -> None:
    nothing_passes(bridged, EVASIONS[name])


@pytest.mark.parametrize("name", ROUTED)
def test_nothing_of_a_routed_blocked_vm_reaches_anybody_and_nothing_reaches_it(routed: Intruder, name: str) -> None:
    nothing_passes(routed, ROUTED[name])


@pytest.mark.parametrize("name", EVASIONS)
def test_with_its_link_forced_up_nothing_of_a_blocked_vm_passes_either(forced_up: Intruder, name: str) -> None:
    sent = forced_up.guest.counters().out_bytes
    nothing_passes(forced_up, EVASIONS[name])
    assert forced_up.guest.counters().out_bytes > sent


def test_a_blocked_vm_that_listens_to_whatever_passes_hears_nothing(forced_up: Intruder) -> None:
    with Ear(forced_up.neighbour.namespace) as other:
        forced_up.heard()
        forced_up.address()
        assert until(lambda: other.heard() != [])
    assert forced_up.heard() == 0

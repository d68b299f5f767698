"""Ways round the block, tried from inside a guest that is over its allowance. The frames that others receive, and the
guest's own card, tell whether one works, not xenbw."""

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
    """A host with a bridged VM, web1, and a routed VM, web2, both over their allowance, and a VM in good standing.

    iptables does not see its bridge, as by Debian's default, with br_netfilter not loaded.
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
    """A blocked routed VM."""
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
    """A blocked VM on the bridge, with its drop by tc removed and the daemon stopped: only the rule on its vif holds
    it."""
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGSTOP)
    force_up(host, bridged.guest)
    yield bridged
    host.daemon.send_signal(signal.SIGCONT)


def nothing_passes(me: Intruder, evasion: Evasion) -> None:
    """No frame passes, neither from the guest nor to it."""
    before = me.guest.counters()
    _ = me.reached(), me.heard()
    evasion.act(me)
    me.address()
    time.sleep(0.03)
    assert me.reached() == {}
    assert (me.heard(), me.guest.counters().in_bytes) == (0, before.in_bytes)


@pytest.mark.parametrize("name", EVASIONS)
def test_no_frame_from_or_to_a_blocked_vm_arrives(bridged: Intruder, name: str) -> None:
    nothing_passes(bridged, EVASIONS[name])


@pytest.mark.parametrize("name", ROUTED)
def test_no_frame_from_or_to_a_routed_blocked_vm_arrives(routed: Intruder, name: str) -> None:
    nothing_passes(routed, ROUTED[name])


@pytest.mark.parametrize("name", EVASIONS)
def test_without_its_drop_by_tc_no_frame_from_or_to_a_blocked_vm_arrives(forced_up: Intruder, name: str) -> None:
    sent = forced_up.guest.counters().out_bytes
    nothing_passes(forced_up, EVASIONS[name])
    assert forced_up.guest.counters().out_bytes > sent


def test_a_blocked_vm_that_listens_to_all_frames_hears_none(forced_up: Intruder) -> None:
    with Ear(forced_up.neighbour.namespace) as other:
        forced_up.heard()
        forced_up.address()
        assert until(lambda: other.heard() != [])
    assert forced_up.heard() == 0

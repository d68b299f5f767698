"""Ways round the meter, tried from inside a guest that is within its allowance: all that it sends, and all answers, are
counted to the byte as the guest's own card counts them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.evasions import EVASIONS, ROUTED, Evasion
from tests.support.host import Host
from tests.support.intruder import Intruder, pass_large_frames
from tests.support.pace import until
from xenbw.model import NOTHING, Amounts

pytestmark = [pytest.mark.kernel, pytest.mark.xdist_group("evasions_counted")]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host with a bridged VM, a routed VM, and a third VM."""
    with Host() as machine:
        machine.start_daemon()
        machine.start("db1")
        machine.start("web1")
        machine.start("web2", ("10.51.0.11",), script="vif-route")
        pass_large_frames(machine)
        yield machine


@pytest.fixture(scope="module")
def bridged(host: Host) -> Iterator[Intruder]:
    """A VM on the bridge."""
    neighbour, guest, _ = host.guests
    with Intruder(host, guest, neighbour) as intruder:
        assert until(lambda: uncounted(intruder) == NOTHING)
        yield intruder


@pytest.fixture(scope="module")
def routed(host: Host) -> Iterator[Intruder]:
    """A routed VM."""
    neighbour, _, guest = host.guests
    with Intruder(host, guest, neighbour) as intruder:
        assert until(lambda: uncounted(intruder) == NOTHING)
        yield intruder


def uncounted(me: Intruder) -> Amounts:
    """Bytes of this life that the card counted and the ledger did not. Bytes that are no usage are negative."""
    card = None
    while card is None or card != me.guest.counters():  # packets passed meanwhile
        card = me.guest.counters()
        me.host.ask("commit")
        (binding,) = (b for b in me.host.ledger().live_bindings().values() if b.domid == me.guest.domid)
    counted = binding.counted
    others = (-counted.flood_bytes, -counted.refused_in_bytes, -counted.refused_out_bytes)
    return Amounts(card.in_bytes - counted.in_bytes, card.out_bytes - counted.out_bytes, *others)


def leads(me: Intruder, where: str) -> bool:
    """Whether a frame of the guest arrived there since the last look."""
    reached = me.reached()
    return bool(reached) if where == "anywhere" else where in reached


def every_byte_is_counted(me: Intruder, evasion: Evasion, tag: int = 0) -> None:
    """Every byte is counted, except the given length of a tag in each frame. The evasion is a real one: without a block
    its frames arrive."""
    before, sent = uncounted(me), me.guest.sent_frames()
    me.reached()
    evasion.act(me)
    frames = me.guest.sent_frames() - sent
    assert frames > 0
    assert evasion.arrives == "nowhere" or until(lambda: leads(me, evasion.arrives))
    # The guest may have sent some frames without a tag as well.
    tags = range(frames // 2 * tag, frames * tag + 1, tag) if tag else (0,)
    assert until(lambda: uncounted(me) in [before._replace(out_bytes=before.out_bytes + lost) for lost in tags], 2)


# The kernel removes a tag of 802.1Q or 802.1ad from a frame before the ingress hook (linux net/core/dev.c,
# skb_vlan_untag): the rest is counted.
TAGS = {"802.1Q": 4, "QinQ": 4}


@pytest.mark.parametrize("name", EVASIONS)
def test_every_byte_of_a_vm_is_counted_whatever_it_sends(bridged: Intruder, name: str) -> None:
    every_byte_is_counted(bridged, EVASIONS[name], TAGS.get(name, 0))


@pytest.mark.parametrize("name", ROUTED)
def test_every_byte_of_a_routed_vm_is_counted_whatever_it_sends(routed: Intruder, name: str) -> None:
    every_byte_is_counted(routed, ROUTED[name])

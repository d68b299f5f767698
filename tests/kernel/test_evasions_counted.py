"""Ways round the meter, tried from inside a guest that is within its allowance: whatever it sends, and whatever comes
of it, is counted to the byte as its own card counts it."""

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
    """A host with a VM on the bridge, a routed one, and a third."""
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
    """A VM behind a vif of its own."""
    neighbour, _, guest = host.guests
    with Intruder(host, guest, neighbour) as intruder:
        assert until(lambda: uncounted(intruder) == NOTHING)
        yield intruder


def uncounted(me: Intruder) -> Amounts:
    """What the guest's own card has counted in this life and the ledger has not; what was not usage is negative."""
    card = None
    while card is None or card != me.guest.counters():  # something passed meanwhile
        card = me.guest.counters()
        me.host.ask("commit")
        (binding,) = (b for b in me.host.ledger().live_bindings().values() if b.domid == me.guest.domid)
    counted = binding.counted
    others = (-counted.flood_bytes, -counted.refused_in_bytes, -counted.refused_out_bytes)
    return Amounts(card.in_bytes - counted.in_bytes, card.out_bytes - counted.out_bytes, *others)


def leads(me: Intruder, where: str) -> bool:
    """Whether something of it has come there since the last look."""
    reached = me.reached()
    return bool(reached) if where == "anywhere" else where in reached


def every_byte_is_counted(me: Intruder, evasion: Evasion, tag: int = 0) -> None:
    """Each byte but for a tag of so many in its frames. And the evasion is one: it leads to others when nothing is in
    its way."""
    before, sent = uncounted(me), me.guest.sent_frames()
    me.reached()
    evasion.act(me)
    frames = me.guest.sent_frames() - sent
    assert frames > 0
    assert evasion.arrives == "nowhere" or until(lambda: leads(me, evasion.arrives))
    # The guest may have said something without a tag in between.
    tags = range(frames // 2 * tag, frames * tag + 1, tag) if tag else (0,)
    assert until(lambda: uncounted(me) in [before._replace(out_bytes=before.out_bytes + lost) for lost in tags], 2)


# A tag of 802.1Q or 802.1ad is taken off a frame before the ingress hook (linux net/core/dev.c, skb_vlan_untag): what
# stays is counted.
TAGS = {"802.1Q": 4, "QinQ": 4}


@pytest.mark.parametrize("name", EVASIONS)
def test_every_byte_of_a_vm_is_counted_whatever_it_sends(bridged: Intruder, name: str) -> None:
    every_byte_is_counted(bridged, EVASIONS[name], TAGS.get(name, 0))


@pytest.mark.parametrize("name", ROUTED)
def test_every_byte_of_a_routed_vm_is_counted_whatever_it_sends(routed: Intruder, name: str) -> None:
    every_byte_is_counted(routed, ROUTED[name])

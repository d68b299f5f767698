"""While a guest is blocked and released again and again, what is counted is what passes: each part of a block comes and
goes in its turn."""

from __future__ import annotations

import pytest

from tests.support.dom0 import OUTSIDE_ADDRESSES
from tests.support.ears import Ear
from tests.support.effort import cases
from tests.support.flow import Flow
from tests.support.frames import mac_bytes
from tests.support.guest import ETH_HLEN
from tests.support.host import Host
from tests.support.pace import at_last, until
from xenbw.model import Counters

pytestmark = pytest.mark.kernel

_TURNS = cases(3, 60)


WAYS = {
    "by the admin": (("block", "web1"), ("lift", "web1")),
    "to throttled": (("addvm", "web1", "--action", "block"), ("addvm", "web1", "--action", "throttle")),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("daemon", ["alive", "dead"])
def test_what_is_counted_at_each_block_and_release_is_what_passes(running: Host, daemon: str, way: str) -> None:
    block, release = WAYS[way]
    guest = running.start("web1")
    if way == "to throttled":
        running.xenbw("addvm", "web1", "--limit", "1kB", "--action", "throttle", "--rate", "80Mbit")
    for place in (running.namespace, running.outside, guest.namespace):
        place.lose_ipv6()
    sender = mac_bytes(guest.cards[0].mac)
    assert until(lambda: running.usage("web1") == guest.counters())
    passed = running.usage("web1").out_bytes
    with Ear(running.outside) as ear:

        def heard() -> int:
            return sum(len(one.frame) - ETH_HLEN for one in ear.heard() if one.frame[6:12] == sender)

        with (
            Flow(guest.namespace, running.outside, OUTSIDE_ADDRESSES[4]) as out,
            Flow(running.outside, guest.namespace, guest.address()) as back,
        ):
            for _ in range(_TURNS):
                running.xenbw(*block)
                assert until(lambda: running.drops(guest.interface))
                counts = [flow.settled() for flow in (out, back)]
                if daemon == "dead":
                    running.kill_daemon()
                running.xenbw(*release)
                for flow, count in zip((out, back), counts, strict=True):
                    assert until(lambda flow=flow, count=count: flow.arrived() > count + 20)
                if daemon == "dead":
                    running.start_daemon()
                passed += heard()
        out.settled()
        received = running.quiet(guest).in_bytes
        passed += heard()
    total = Counters(received, passed)
    assert at_last(lambda: running.usage("web1"), total) == total

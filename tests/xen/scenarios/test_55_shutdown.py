"""A blocked guest that sends with all its might shuts down as fast as one in good standing: its link in dom0 stays up,
so netback goes on reading its ring."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig import guest, package, park, shell
from rig.guest import Guest

_BLOCKED, _FREE = 10, 3  # lives
# The guest is given the MAC of the host outside: a blocked guest could not learn it. Each such ping is 41 frames.
_FLOOD = """
arp -i eth0 -s 10.77.0.2 02:00:00:77:00:02
for n in 1 2 3 4 5 6 7 8 9 10; do ping -q -i 0.02 -s 60000 10.77.0.2 >/dev/null 2>&1 & done
sleep 5"""
# The frames that its card has sent, now and once it has sent more: a slow dom0 may read none for some seconds.
_WATCH = """
sent() { cat /sys/class/net/eth0/statistics/tx_packets; }
before=$(sent)
tries=60
until sleep 1; [ "$(sent)" != "$before" ] || [ $tries = 0 ]; do tries=$((tries - 1)); done
echo "$before $(sent)"
"""


@dataclass(frozen=True)
class Life:
    """One life of the guest, which sends until its end. seconds: how long its shutdown took. sent: frames that its card
    sent just before. link: the state of its link in dom0. dropped: whether tc dropped all its frames."""

    seconds: float
    sent: int
    link: str
    dropped: bool


@dataclass(frozen=True)
class Story:
    """The guest's lives in good standing, and over its allowance."""

    free: list[Life]
    blocked: list[Life]


@pytest.fixture(scope="module", autouse=True)
def story() -> Iterator[Story]:
    each = park.numbered("sender", 55)
    free = [_life(each) for _ in range(_FREE)]
    package.xenbw("block", each.name, "--reason", "sends too much")
    yield Story(free, [_life(each) for _ in range(_BLOCKED)])
    guest.forget(each)
    package.xenbw("rmvm", each.name, "--yes")


def _life(each: Guest) -> Life:
    each.create()
    each.run(_FLOOD)
    interface = f"vif{each.domid}.0"
    link = Path(f"/sys/class/net/{interface}/operstate").read_text().strip()
    dropped = all(
        "handle 0x7862" in shell.run("tc", "filter", "show", "dev", interface, way) for way in ("ingress", "egress")
    )
    before, after = (int(number) for number in each.run(_WATCH).output.split())
    began = time.monotonic()
    each.shut_down()
    return Life(time.monotonic() - began, after - before, link, dropped)


def test_the_guest_sends_until_its_end_blocked_or_not(story: Story) -> None:
    assert min(life.sent for life in story.free + story.blocked) > 0


def test_a_blocked_guests_frames_are_dropped_while_its_link_is_up(story: Story) -> None:
    assert {(life.link, life.dropped) for life in story.blocked} == {("up", True)}
    assert {(life.link, life.dropped) for life in story.free} == {("up", False)}


def test_a_blocked_guest_shuts_down_in_at_most_twice_the_time_of_one_in_good_standing(story: Story) -> None:
    longest = max(life.seconds for life in story.free)
    assert [life.seconds for life in story.blocked if life.seconds > 2 * longest] == []
    assert len(story.blocked) == _BLOCKED

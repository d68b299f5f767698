"""Traffic right up to a guest's end: what passed its vif, as dom0's own packet socket saw it, is what it is charged."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from rig import guest, package, park
from rig.guest import Guest, Usage
from rig.pace import until
from rig.scales import Scales

_FETCH = "while :; do wget -q -O /dev/null http://10.77.0.2/1M; done >/dev/null 2>&1"
_SEND = "ping -i 0.05 -s 900 10.77.0.2 >/dev/null 2>&1"
# What is handed to a vif may wait in its queue for the guest to make room, and is lost with the vif. TCP lets two
# downloads' worth of 64 KiB be under way.
_WAITING = 1_000_000

# One round of all ways in each run; python3 -m tests.xen -- test_35_ends.py with XENBW_ROUNDS=13 makes 52 lives.
_ROUNDS = int(os.environ.get("XENBW_ROUNDS", "1"))


def _poweroff(guest: Guest) -> None:
    guest.say("poweroff -f")
    assert until(lambda: guest.domid is None)


_ENDS: dict[str, Callable[[Guest], None]] = {
    "xl destroy": Guest.destroy,
    "xl shutdown": Guest.shut_down,
    "poweroff from inside": _poweroff,
    "xl reboot": Guest.reboot_by_xl,
}


@dataclass(frozen=True)
class Life:
    """A life that ended: how, what passed its vif, and what it was charged."""

    end: str
    passed: Usage
    charged: Usage


@pytest.fixture(scope="module")
def lives(xenbw: None) -> Iterator[list[Life]]:
    """One guest for each way to end, all at once, round after round."""
    guests = {end: park.numbered(f"end{number}", 41 + number) for number, end in enumerate(_ENDS)}
    ended: list[tuple[str, Guest, int]] = []
    with Scales() as scales:

        def live(end: str) -> tuple[str, Guest, int]:
            """Live with traffic until the end; the way, the guest, and its domid."""
            each, domid = guests[end], guests[end].domid
            assert domid is not None
            each.run(f"({_FETCH}) & ({_SEND}) &")
            before = scales.total(f"vif{domid}.0").in_bytes
            assert until(lambda: scales.total(f"vif{domid}.0").in_bytes > before + 500_000)
            _ENDS[end](each)
            assert until(lambda: f"vif{domid}.0" not in {name for _, name in socket.if_nameindex()})
            return end, each, domid

        for _ in range(_ROUNDS):
            guest.create(*(each for each in guests.values() if each.domid is None))
            with ThreadPoolExecutor() as together:
                ended += together.map(live, guests)
        yield [Life(end, scales.total(f"vif{domid}.0"), _charged(each.name, domid)) for end, each, domid in ended]
    guest.forget(*guests.values())


def _charged(name: str, domid: int) -> Usage:
    """What a life was charged, once it has ended for xenbw too; with what was flooded to it."""

    def ended() -> list[dict[str, int]]:
        return [one for one in package.show(name)["bindings"] if one["domid"] == domid and one["ended_at"] is not None]

    [found] = until(ended)
    return Usage(found["in_bytes"] + found["flood_bytes"], found["out_bytes"])


def test_each_life_is_charged_what_it_sent_to_the_last_byte(lives: list[Life]) -> None:
    assert len(lives) == len(_ENDS) * _ROUNDS
    assert [life for life in lives if life.charged.out_bytes != life.passed.out_bytes] == []


def test_each_life_is_charged_what_it_was_sent_and_what_waited_for_it_at_its_end(lives: list[Life]) -> None:
    more = [life.charged.in_bytes - life.passed.in_bytes for life in lives]
    print(f"ends: waiting at the end: {sorted(more)} bytes")
    assert all(0 <= waited <= _WAITING for waited in more), lives

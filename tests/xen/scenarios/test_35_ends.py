"""Traffic right up to a guest's end: it is charged to the last byte for its traffic with the host outside."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig import guest, package, park, shell
from rig.guest import Guest, Usage
from rig.pace import until
from rig.scales import Scales

_FETCH = "while :; do wget -q -O /dev/null http://10.77.0.2/1M; done >/dev/null 2>&1"
_SEND = "ping -i 0.05 -s 900 10.77.0.2 >/dev/null 2>&1"
# Bytes of broadcasts and multicasts of others.
_SMALL_TALK = 20_000
# With --stay: XENBW_ROUNDS=13 pytest-3 test_35_ends.py, for 52 lives.
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
    """A life that ended: in which way, the bytes that its card counted a moment before, those that the host outside
    exchanged with it, those that it was charged, and those that were flooded to it."""

    end: str
    counted: Usage
    weighed: Usage
    charged: Usage
    flooded: int


@pytest.fixture(scope="module")
def lives(xenbw: None) -> Iterator[list[Life]]:
    """One guest for each way to end, all at once, in several rounds. They talk only to the host outside."""
    guests = {end: park.numbered(f"end{number}", 41 + number) for number, end in enumerate(_ENDS)}
    ended: list[Life] = []
    with Scales(guests.values()) as scales:

        def live(end: str) -> Life:
            each, domid = guests[end], guests[end].domid
            assert domid is not None
            before = weighed[end]
            each.run(f"({_FETCH}) & ({_SEND}) &")
            each.run("sleep 4")
            assert until(lambda: each.counters().in_bytes > 100_000), f"{each.name} hardly got anything"
            counted = each.counters()
            _ENDS[end](each)
            assert until(lambda: each.domid != domid)
            # Read this before its next life, which has the same MAC, sends.
            weight = scales.total(each) - before
            charged, flooded = _charged(each.name, domid)
            return Life(end, counted, weight, charged, flooded)

        for _ in range(_ROUNDS):
            for each in guests.values():
                each.destroy()
            weighed = {end: scales.total(each) for end, each in guests.items()}
            guest.create(*guests.values())
            with ThreadPoolExecutor() as together:
                ended += together.map(live, guests)
        yield ended
    guest.forget(*guests.values())


def _charged(name: str, domid: int) -> tuple[Usage, int]:
    """The bytes that a life was charged, once xenbw has recorded its end, and the bytes that were flooded to it."""

    def ended() -> list[dict[str, int]]:
        return [one for one in package.show(name)["bindings"] if one["domid"] == domid and one["ended_at"] is not None]

    [found] = until(ended)
    return Usage(found["in_bytes"], found["out_bytes"]), found["flood_bytes"]


def test_each_life_is_charged_to_the_last_byte_for_its_traffic_outside(lives: list[Life]) -> None:
    assert len(lives) == len(_ENDS) * _ROUNDS
    assert [life for life in lives if life.charged.out_bytes != life.weighed.out_bytes] == []


def test_each_life_is_charged_at_least_what_it_received_and_at_most_what_was_sent_to_it(lives: list[Life]) -> None:
    for life in lives:
        assert life.counted.in_bytes <= life.charged.in_bytes + life.flooded, life
        assert life.charged.in_bytes <= life.weighed.in_bytes + _SMALL_TALK, life


def test_nothing_of_an_ended_life_stays_in_nft(lives: list[Life]) -> None:
    # Linux 6.1 deletes the chains of a device that goes, 6.12 leaves them without a device.
    assert until(lambda: _left() == set()), _left()


def _left() -> set[str]:
    """The vifs that are gone and have chains, counters or maps in our table: DOMID.DEVID.IFINDEX."""
    there = {path.read_text().strip() for path in Path("/sys/class/net").glob("*/ifindex")}
    table = shell.run("nft", "list", "table", "netdev", "xenbw")
    return {key for key, ifindex in re.findall(r"\bv(\d+\.\d+\.(\d+))-", table) if ifindex not in there}

"""A guest over its allowance is restarted in every way: not even its first packet gets through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from rig import guest, outside, package, park, shell, xenstore
from rig.guest import Guest, Usage
from rig.outside import Frame


def _destroy_and_create(guest: Guest) -> None:
    guest.destroy()
    guest.begin()


def _shut_down_and_create(guest: Guest) -> None:
    guest.shut_down()
    guest.begin()


_WAYS: dict[str, Callable[[Guest], None]] = {
    "xl reboot": Guest.reboot_by_xl,
    "reboot from inside": lambda guest: guest.say("reboot -f"),
    "xl destroy, xl create": _destroy_and_create,
    "xl shutdown, xl create": _shut_down_and_create,
}


@dataclass(frozen=True)
class Restarted:
    """A guest after its restart: its domid and usage before and now, its card's counters since, and what got through.

    `packets` come from its addresses, `frames` of any kind from its card.
    """

    guest: Guest
    domid_before: int | None
    before: Usage
    after: Usage
    since_boot: Usage
    packets: list[Frame]
    frames: list[Frame]


@pytest.fixture(scope="module", autouse=True)
def restarted(xenbw: None) -> Iterator[dict[str, Restarted]]:
    """One guest for each way of restarting, by its name, all at once. Each pings for its first 10 seconds."""
    guests = {way: park.numbered(way.replace(",", "").replace(" ", "-"), 21 + at) for at, way in enumerate(_WAYS)}
    guest.create(*guests.values())
    before = _send_over(list(guests.values()))
    domids = xenstore.domids()
    since = outside.mark()
    with ThreadPoolExecutor() as together:
        list(together.map(lambda way: _WAYS[way](guests[way]), guests))
    for each in guests.values():
        each.wait(other_than=domids[each.name])
        each.run("while pidof ping; do sleep 0.2; done")
    after = package.usages()
    yield {
        way: Restarted(
            each,
            domids[each.name],
            before[each.name],
            after[each.name],
            each.counters(),
            outside.packets(since, each),
            outside.frames(since, each),
        )
        for way, each in guests.items()
    }
    guest.forget(*guests.values())


def _send_over(guests: list[Guest]) -> dict[str, Usage]:
    """Make each guest go over its allowance; returns their usages. The guests send nothing after that."""
    for each in guests:
        each.run("killall ping")
        each.download(1)
    for each in guests:
        package.settled(each)
    shell.together(*(["xenbw-addvm", each.name, "--limit", "1KB"] for each in guests))
    return package.usages()


@pytest.fixture(params=list(_WAYS))
def case(request: pytest.FixtureRequest, restarted: dict[str, Restarted]) -> Restarted:
    """Each guest in turn."""
    return restarted[request.param]


def test_no_packet_gets_through(case: Restarted) -> None:
    assert case.packets == []
    # The guest did send.
    assert case.since_boot.out_bytes > 1000


def test_the_guest_is_another_domain_and_still_blocked(case: Restarted) -> None:
    assert case.guest.domid not in (None, case.domid_before)
    assert case.guest.silent("10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2")


def test_the_guests_usage_is_carried_over(case: Restarted) -> None:
    assert case.before.in_bytes > 1_000_000
    # Frames that the block dropped are refused, not usage.
    assert case.after == case.before


def test_no_frame_gets_through(case: Restarted) -> None:
    assert case.frames == []

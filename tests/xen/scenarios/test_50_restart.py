"""A guest over its allowance is restarted, in each way there is: it gets no packet through, from its first on."""

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
    """A guest after its restart: its domid and usage before and now, what its card counted since, what got through.

    `packets` come from its addresses, `frames` from its card, whatever they are.
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
    """One guest for each way, all at once, by the name of the way. Each shouts for its first 10 seconds."""
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
    """Let each use something, and more than it may; their usages then. They are quiet from here on."""
    for each in guests:
        each.run("killall ping")
        each.download(1)
    for each in guests:
        package.settled(each)
    shell.together(*(["xenbw-addvm", each.name, "--limit", "1KB"] for each in guests))
    return package.usages()


@pytest.fixture(params=list(_WAYS))
def case(request: pytest.FixtureRequest, restarted: dict[str, Restarted]) -> Restarted:
    """Each of them in turn."""
    return restarted[request.param]


def test_not_a_packet_gets_through(case: Restarted) -> None:
    assert case.packets == []
    # It did try.
    assert case.since_boot.out_bytes > 1000


def test_it_is_another_domain_and_still_blocked(case: Restarted) -> None:
    assert case.guest.domid not in (None, case.domid_before)
    assert case.guest.silent("10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2")


def test_its_usage_is_carried_over(case: Restarted) -> None:
    assert case.before.in_bytes > 1_000_000
    # What a guest tries in vain is refused, and no usage.
    assert case.after == case.before


def test_not_a_frame_gets_through(case: Restarted) -> None:
    assert case.frames == []

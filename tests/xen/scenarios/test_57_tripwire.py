"""The kernel alone holds each guest's allowance: guests cross it, and restart, while xenbwd is dead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rig import package, shell
from rig.guest import Guest
from rig.pace import until
from rig.park import Pair

_MB = 1_000_000
_FRAME = 65_568  # bytes; the largest frame with offload


@dataclass(frozen=True)
class Alone:
    """What happened while no xenbwd ran. limits: the guests' allowances in bytes. refused: whether each guest was cut
    off after it used up its own, and again after its restart."""

    limits: dict[str, int]
    refused: dict[str, tuple[bool, bool]]


@pytest.fixture(scope="module", autouse=True)
def alone(pair: Pair) -> Iterator[Alone]:
    """web1 and then db1 download more than they have left, while xenbwd is killed; both restart."""
    limits, refused = {}, {}
    for guest in (pair.web, pair.db):
        used = package.usage(guest.name)
        limits[guest.name] = used.in_bytes + used.out_bytes + _MB
        package.allow(guest.name, f"{limits[guest.name]}B")
    assert pair.web.pings("10.77.0.2")
    shell.run("systemctl", "kill", "--signal=KILL", "xenbwd")
    package.stop_daemon()
    try:
        for guest in (pair.web, pair.db):
            assert guest.pings("10.77.0.2"), "a guest in good standing is refused"
            crossed = _use_up(guest)
            guest.destroy()
            guest.create()
            refused[guest.name] = (crossed, guest.silent("10.77.0.1", "10.77.0.2", "fd77::2"))
    finally:
        package.start_daemon()
    yield Alone(limits, refused)
    for guest in (pair.web, pair.db):
        package.release(guest.name)


def _use_up(guest: Guest) -> bool:
    """Download more than the allowance. Whether the guest is cut off then."""
    guest.run("for n in 1 2 3; do wget -q -O /dev/null http://10.77.0.2/1M; done >/dev/null 2>&1 &")
    crossed = until(lambda: guest.silent("10.77.0.2"))
    guest.run("killall wget")
    return crossed


@pytest.mark.parametrize("name", ["web1", "db1"])
def test_a_guest_is_refused_at_its_allowance_and_after_its_restart(alone: Alone, name: str) -> None:
    assert alone.refused[name] == (True, True)


@pytest.mark.parametrize("name", ["web1", "db1"])
def test_not_a_byte_passed_the_allowance(alone: Alone, name: str) -> None:
    used = package.usage(name)
    limit = alone.limits[name]
    assert limit - _FRAME < used.in_bytes + used.out_bytes <= limit


@pytest.mark.parametrize("name", ["web1", "db1"])
def test_xenbwd_records_and_announces_it_after_its_start(alone: Alone, name: str) -> None:
    assert until(lambda: package.state(name) == "over")
    assert "used up its allowance" in package.show(name)["reason"]
    told = [event["text"] for event in package.status()["events"] if event["kind"] == "null-routed"]
    assert any(text.startswith(f"{name} ") for text in told), told

"""dom0 was rebooted, with guests that start with it: see test_95_before_reboot.py."""

from __future__ import annotations

import pytest

from rig import outside, package, park
from rig.guest import Guest
from rig.pace import scaled, until


@pytest.fixture(scope="module")
def guests() -> dict[str, Guest]:
    """web1, restored; shop, started; db1, restored and in good standing: once xendomains has started all of them."""
    guests = {guest.name: guest for guest in (park.web(), park.shop(), park.db())}
    for guest in guests.values():
        guest.wait()
    return guests


@pytest.mark.parametrize("name", ["web1", "shop"])
def test_a_guest_over_its_allowance_gets_no_packet_through_from_the_start_of_dom0(
    name: str, guests: dict[str, Guest]
) -> None:
    assert guests[name].silent("10.77.0.1", "10.77.0.2", "fd77::2")
    assert outside.packets(0, guests[name]) == []
    assert guests[name].counters().out_bytes > 1000


def test_a_guest_in_good_standing_has_its_network(guests: dict[str, Guest]) -> None:
    assert guests["db1"].pings("10.77.0.2", "fd77::2")


def test_the_guests_are_metered_again(guests: dict[str, Guest]) -> None:
    before = package.usage("db1")
    guests["db1"].download(1)
    assert until(lambda: package.usage("db1").in_bytes - before.in_bytes > 1_000_000, scaled(3))


def test_the_capture_outside_has_run_since_before_the_first_guest(guests: dict[str, Guest]) -> None:
    """Otherwise a capture without packets of blocked guests would prove nothing."""
    assert outside.packets(0, guests["db1"])

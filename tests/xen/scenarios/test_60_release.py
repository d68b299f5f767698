"""A block ends: the allowance is raised, or another VM holds the address now."""

from __future__ import annotations

import time

from rig import guest, outside, package
from rig.guest import Card, Guest
from rig.outside import Frame
from rig.pace import scaled, until


def test_a_raised_allowance_releases_a_guest_at_once(web: Guest) -> None:
    package.send_over("web1")
    assert web.silent("10.77.0.1", "10.77.0.2", "fd77::2")
    began = time.monotonic()
    package.allow("web1", "1TB")
    assert until(lambda: web.pings("10.77.0.2"), scaled(2))
    assert time.monotonic() - began < scaled(2)
    assert web.pings("10.77.0.1", "fd77::2")


def test_a_guest_over_its_allowance_reaches_only_allowed_networks(web: Guest) -> None:
    with package.allowing("10.77.0.2", "fd77::2"):
        package.send_over("web1")
        assert until(lambda: web.pings("10.77.0.2", "fd77::2"), scaled(2))
        assert web.silent("10.77.0.1", "10.77.0.12", "fd77::1")
    assert until(lambda: web.silent("10.77.0.2", "fd77::2"), scaled(2))
    package.release("web1")


def test_an_address_given_to_another_guest_is_not_blocked(web: Guest) -> None:
    package.send_over("web1")
    web.shut_down()
    heir = Guest("heir", [Card("00:16:3e:77:00:0e", web.cards[0].ips)])
    try:
        since = outside.mark()
        guest.create(heir)
        assert heir.pings("10.77.0.2", "fd77::2", "10.77.0.1")
        first = next(packet for packet in outside.packets(since, heir) if packet.source == heir.ip)
        assert _sequence_number(first) == 0
    finally:
        guest.forget(heir)
        package.release("web1")


def _sequence_number(echo: Frame) -> int:
    """The sequence number of an ICMP echo request in IPv4 without options; a guest counts its pings from 0."""
    return int.from_bytes(echo.head[40:42], "big")

"""Guests as admins configure them: several vifs, a vifname, odd names, several addresses, no address."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig import guest, outside, package, shell
from rig.guest import Card, Guest
from rig.pace import until


@dataclass(frozen=True)
class Shapes:
    """The guests of this module."""

    two_cards: Guest
    odd_name: Guest
    unknown: Guest


@pytest.fixture(scope="module", autouse=True)
def shapes(xenbw: None) -> Iterator[Shapes]:
    """All guests run, and none is blocked."""
    guests = Shapes(
        two_cards=Guest(
            "customer-42.example.org_web+db-frontend",
            [
                Card("00:16:3e:77:02:01", ("10.77.0.31",), options="bridge=xenbr0,vifname=cust42"),
                Card("00:16:3e:77:02:02", ("10.77.0.32",)),
            ],
        ),
        odd_name=Guest("sp ace:col", [Card("00:16:3e:77:02:03", ("10.77.0.33", "10.77.0.34", "fd77::33"))]),
        unknown=Guest("unknown", [Card("00:16:3e:77:02:04", ("10.77.0.35",), told=())]),
    )
    guest.create(guests.two_cards, guests.odd_name, guests.unknown)
    yield guests
    guest.forget(guests.two_cards, guests.odd_name, guests.unknown)


@pytest.fixture
def two_cards(shapes: Shapes) -> Guest:
    """A guest with a long name and two vifs; the first has a vifname."""
    return shapes.two_cards


@pytest.fixture
def odd_name(shapes: Shapes) -> Guest:
    """A guest with a space and a colon in its name, and three addresses on its vif."""
    return shapes.odd_name


@pytest.fixture
def unknown(shapes: Shapes) -> Guest:
    """A guest whose config file does not have its address."""
    return shapes.unknown


def test_both_vifs_of_a_guest_are_metered(two_cards: Guest) -> None:
    for card in ("eth0", "eth1"):
        peer = "10.77.0.2" if card == "eth0" else "10.77.0.1"
        two_cards.run(f"ip route replace {peer} dev {card}")
        two_cards.download(1, peer)
    package.settled(two_cards)
    cards = {binding["interface"]: binding["in_bytes"] for binding in package.show(two_cards.name)["bindings"]}
    assert set(cards) == {"cust42", f"vif{two_cards.domid}.1"}
    assert min(cards.values()) > 1_000_000


def test_a_guest_with_an_odd_name_is_metered(odd_name: Guest) -> None:
    odd_name.download(1)
    package.settled(odd_name)


def test_a_guest_whose_address_is_not_configured_is_metered(unknown: Guest) -> None:
    unknown.download(1)
    package.settled(unknown)


def test_both_vifs_of_a_guest_are_blocked(two_cards: Guest) -> None:
    package.send_over(two_cards.name)
    for source in ("10.77.0.31", "10.77.0.32"):
        for peer in ("10.77.0.1", "10.77.0.2"):
            assert two_cards.run(f"ping -q -c 2 -i 0.3 -W 2 -I {source} {peer}").status != 0
    package.release(two_cards.name)
    assert two_cards.pings("10.77.0.2")


def test_all_addresses_of_a_vif_are_blocked(odd_name: Guest) -> None:
    package.send_over(odd_name.name)
    for source, peer in (("10.77.0.33", "10.77.0.2"), ("10.77.0.34", "10.77.0.2"), ("fd77::33", "fd77::2")):
        assert odd_name.run(f"ping -q -c 2 -i 0.3 -W 2 -I {source} {peer}").status != 0
    package.release(odd_name.name)
    assert odd_name.pings("10.77.0.2")


def test_a_guest_whose_address_is_not_configured_is_blocked(unknown: Guest) -> None:
    package.send_over(unknown.name)
    try:
        assert unknown.silent("10.77.0.1", "10.77.0.2")
    finally:
        package.release(unknown.name)


def test_a_vif_attached_later_is_metered_and_blocked_and_stays_counted_when_it_is_detached(odd_name: Guest) -> None:
    shell.run("xl", "network-attach", odd_name.name, "bridge=xenbr0", "mac=00:16:3e:77:02:05", "ip=10.77.0.36")
    setup = "ip addr add 10.77.0.36/24 dev eth1 && ip link set eth1 up && ip route replace 10.77.0.2 dev eth1"
    assert until(lambda: odd_name.run(setup).status == 0)
    odd_name.download(1, "10.77.0.2")
    package.settled(odd_name)

    package.send_over(odd_name.name)
    assert odd_name.run("ping -q -c 2 -i 0.3 -W 2 -I 10.77.0.36 10.77.0.2").status != 0
    package.release(odd_name.name)

    before = package.settled(odd_name)
    shell.run("xl", "network-detach", odd_name.name, "1")
    assert until(lambda: odd_name.run("test -e /sys/class/net/eth1").status != 0)
    after = package.usage(odd_name.name)
    assert 0 <= after.in_bytes - before.in_bytes < 1000
    assert 0 <= after.out_bytes - before.out_bytes < 1000


def _group() -> int:
    """The interface group of the vif with a vifname; udev's rule sets it before the vif script runs."""
    return int(Path("/sys/class/net/itsown/netdev_group").read_text())


@pytest.mark.parametrize(
    ("daemon", "options"),
    [("running", "bridge=xenbr0"), ("dead", "bridge=xenbr0"), ("dead", "bridge=xenbr0,vifname=itsown")],
)
def test_a_vif_attached_to_a_guest_over_its_allowance_passes_no_frame(
    unknown: Guest, daemon: str, options: str
) -> None:
    package.send_over(unknown.name)
    number = len(unknown.cards)
    card = Card(f"00:16:3e:77:02:{5 + number:02x}", (f"10.77.0.{36 + number}",), options=options)
    setup = (
        f"ip addr add {card.ips[0]}/24 dev eth{number} && ip link set eth{number} up"
        f" && ip route replace 10.77.0.2 dev eth{number}"
    )
    unknown.run(f"(until {setup}; do sleep 0.1; done; ping -i 0.2 10.77.0.2) >/dev/null 2>&1 &")
    if daemon == "dead":
        package.stop_daemon()
    since = outside.mark()
    try:
        shell.run("xl", "network-attach", unknown.name, *card.config().split(","))
        assert unknown.run("until pidof ping; do sleep 0.1; done; sleep 2").status == 0
        unknown.cards.append(card)
        assert outside.frames(since, unknown) == []
        if "vifname" in options:
            assert _group() == 0x78620000 + unknown.domid
    finally:
        unknown.run("killall ping")
        package.start_daemon()
        package.release(unknown.name)
    if "vifname" in options:
        assert _group() == 0

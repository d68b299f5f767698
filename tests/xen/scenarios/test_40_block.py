"""A guest that goes over its allowance is cut off, in both directions."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rig import outside, package, shell
from rig.guest import Guest
from rig.outside import Frame
from rig.pace import scaled, until
from rig.park import Pair

_MB = 1_000_000


@dataclass(frozen=True)
class Crossing:
    """When web1's last download began (seconds since 1970), and its packets that arrived outside since then."""

    began: float
    packets: list[Frame]


@pytest.fixture(scope="module", autouse=True)
def crossing(pair: Pair) -> Iterator[Crossing]:
    """web1 pings the host outside all the time, and downloads more than its allowance has left."""
    web = pair.web
    used = package.usage("web1")
    package.allow("web1", str(used.in_bytes + used.out_bytes + _MB) + "B")
    web.run("ping -i 0.2 10.77.0.2 >/dev/null 2>&1 & ping -i 0.2 fd77::2 >/dev/null 2>&1 &")
    since, began = outside.mark(), time.time()
    web.run("for n in 1 2; do wget -q -O /dev/null http://10.77.0.2/1M; done >/dev/null 2>&1 &")
    assert until(lambda: _silent_since(web, since, 5.0)), "its packets still come through"
    yield Crossing(began, outside.packets(since, web))
    web.run("killall wget ping")
    package.release("web1")


def _silent_since(guest: Guest, mark: int, seconds: float) -> bool:
    packets = outside.packets(mark, guest)
    return bool(packets) and packets[-1].at < time.time() - seconds


def test_a_guest_over_its_allowance_is_cut_off_within_two_seconds(crossing: Crossing) -> None:
    assert crossing.packets[-1].at - crossing.began < scaled(2)


def test_a_guest_has_its_network_until_it_is_over(web: Guest, crossing: Crossing) -> None:
    assert package.state("web1") == "over"
    # The kernel holds what it sends and what it gets together to the allowance.
    assert web.counters().in_bytes > _MB // 2
    assert package.usage("web1").in_bytes > _MB // 2


@pytest.mark.parametrize(
    ("to", "ips"),
    [
        ("dom0", ("10.77.0.1", "fd77::1")),
        ("another guest", ("10.77.0.12", "fd77::12")),
        ("the host outside", ("10.77.0.2", "fd77::2")),
    ],
)
def test_a_blocked_guest_reaches_no_host(web: Guest, to: str, ips: tuple[str, ...]) -> None:
    assert web.silent(*ips), to


def test_no_host_reaches_a_blocked_guest(web: Guest, db: Guest) -> None:
    web.run("killall ping")
    heard = _echoes(web)
    assert not outside.ping(web.ip)
    assert not outside.ping("fd77::11")
    assert db.silent(web.ip, "fd77::11")
    assert shell.status("ping", "-q", "-c", "2", "-W", "1", web.ip) != 0
    assert shell.status("ping", "-q", "-c", "2", "-W", "1", "fd77::11") != 0
    assert _echoes(web) == heard


def _echoes(guest: Guest) -> str:
    """The number of echo requests that the guest received, by its own count."""
    ipv4, ipv6 = "grep ^Icmp: /proc/net/snmp | cut -d' ' -f10", "grep Icmp6InEchos /proc/net/snmp6"
    return guest.run(f"{ipv4}; {ipv6}").output


def test_other_guests_are_not_affected(db: Guest) -> None:
    assert db.pings("10.77.0.1", "10.77.0.2", "fd77::2")


def test_a_blocked_guest_with_another_address_reaches_no_host(web: Guest) -> None:
    web.run("ip addr add 10.77.0.55/24 dev eth0")
    package.raise_links()
    try:
        assert web.run("ping -q -c 3 -W 1 -I 10.77.0.55 10.77.0.2").status != 0
    finally:
        web.run("ip addr del 10.77.0.55/24 dev eth0")


def test_no_frame_of_a_blocked_guest_passes(web: Guest) -> None:
    since = outside.mark()
    package.raise_links()
    web.run("ping -q -c 2 -W 1 10.77.0.99")
    assert outside.frames(since, web) == []

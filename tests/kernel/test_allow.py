"""What a blocked VM reaches all the same: its resolver and its panel, so that its owner sees why, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.guest import Guest
from tests.support.host import Host, until
from tests.support.story import overdrawn

pytestmark = pytest.mark.kernel

OPEN, SHUT = ("10.50.0.2", "fd50::2"), ("10.50.0.1", "fd50::1")
IPS = ("10.50.0.11", "fd50::11")


def allowing(*networks: str) -> str:
    return f"[enforce]\ninterval = 1\nallow = [{', '.join(repr(network) for network in networks)}]\n"


@pytest.fixture
def running() -> Iterator[Host]:
    with Host(allowing(*OPEN)) as host:
        host.start_daemon()
        yield host


def reaches(guest: Guest, *addresses: str) -> bool:
    return all(guest.ping(address, count=2) for address in addresses)


def reaches_none(guest: Guest, *addresses: str) -> bool:
    return not any(guest.ping(address, timeout=0.2) for address in addresses)


def test_a_blocked_guest_reaches_what_is_allowed_and_nothing_else(running: Host) -> None:
    neighbour = running.start("db1", ("10.50.0.12",))
    guest = overdrawn(running, ips=IPS)
    assert until(lambda: reaches(guest, *OPEN))
    assert reaches_none(guest, *SHUT, neighbour.address())
    assert running.link_is_up(guest)


def test_a_blocked_routed_guest_does_so_too(running: Host) -> None:
    guest = overdrawn(running, ips=("10.51.0.11",), script="vif-route")
    running.outside.ip("route replace 10.51.0.11 via 10.50.0.1")
    assert until(lambda: reaches(guest, OPEN[0]))
    assert reaches_none(guest, SHUT[0])


def test_from_a_hook_on_with_the_daemon_dead(running: Host) -> None:
    guest = overdrawn(running, ips=IPS)
    running.kill_daemon()
    for version, command in ((4, "iptables-legacy"), (6, "ip6tables-legacy")):
        running.run([command, "-F"], check=True)
        assert not any("RETURN" in rule for rule in running.rules(version))
    guest.reboot()
    assert reaches(guest, *OPEN)
    assert reaches_none(guest, *SHUT)


def test_what_passes_is_usage(running: Host) -> None:
    guest = overdrawn(running, ips=IPS)
    assert until(lambda: reaches(guest, *OPEN))
    before, counted = running.usage("web1"), guest.counters()
    assert guest.send(50_000) == 50_000
    assert running.usage("web1").out_bytes - before.out_bytes >= guest.counters().out_bytes - counted.out_bytes > 50_000


def test_nothing_that_only_looks_like_it_gets_through(running: Host) -> None:
    # A resolver's address is no way to somebody else: its neighbours' messages stay on the link and are few and short.
    guest = overdrawn(running, ips=IPS)
    assert until(lambda: reaches(guest, *OPEN))
    chains = running.run(["nft", "list", "table", "netdev", "xenbw"]).stdout
    assert chains.count("limit rate 20/second") == 4
    assert reaches_none(guest, "10.50.0.3", "fd50::3")


def test_a_list_that_changes_is_followed_at_a_reload_and_emptied_leaves_nothing(running: Host) -> None:
    guest = overdrawn(running, ips=IPS)
    assert until(lambda: reaches(guest, *OPEN))
    running.configure(allowing(SHUT[0]))
    assert running.daemon is not None
    running.daemon.send_signal(1)
    assert until(lambda: reaches(guest, SHUT[0]))
    assert reaches_none(guest, *OPEN, SHUT[1])
    running.configure("")
    running.daemon.send_signal(1)
    assert until(lambda: not running.link_is_up(guest))
    running.raise_links(guest)
    assert reaches_none(guest, *OPEN, *SHUT)
    assert "limit rate" not in running.run(["nft", "list", "table", "netdev", "xenbw"]).stdout
    assert not any("RETURN" in rule for rule in running.rules())


def test_a_vm_called_like_the_exception_is_blocked_like_any(running: Host) -> None:
    guest = overdrawn(running, "allows", ips=("10.50.0.11",))
    assert reaches_none(guest, SHUT[0])
    assert running.blocked(guest.address())

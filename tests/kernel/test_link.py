"""A blocked guest's link is down beside its seal where no drop by tc can be had: no flush of rules undoes that."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.support.capture import Capture
from tests.support.firewalls import flush
from tests.support.guest import Guest
from tests.support.hooked import pending
from tests.support.host import HOOK, Host
from tests.support.pace import until
from tests.support.story import overdrawn

pytestmark = pytest.mark.kernel


def over(host: Host) -> Guest:
    """A blocked VM whose vif has a qdisc in the place where clsact would be."""
    guest = host.start("web1")
    host.hinder_drop(guest.interface)
    host.xenbw("block", "web1", "--reason", "abuse")
    return guest


def shaping(folder: Path) -> Path:
    """A hook that gives each vif that qdisc, and is called before xenbw's, by its name."""
    shaper = folder / "shaper.hook"
    shaper.write_text('[ "$command" != online ] || tc qdisc add dev "$vif" ingress\n')
    return shaper


def marks(host: Host) -> list[str]:
    folder = host.run_dir / "lowered"
    return [mark.name for mark in folder.iterdir()] if folder.exists() else []


def test_the_link_of_a_blocked_guest_goes_down_and_is_raised_at_its_release(running: Host) -> None:
    guest = over(running)
    assert until(lambda: not running.link_is_up(guest))
    running.xenbw("lift", "web1")
    assert running.link_is_up(guest)
    assert guest.reaches("10.50.0.2")
    assert marks(running) == []


def test_with_every_rule_flushed_and_the_daemon_dead_no_packet_passes(running: Host) -> None:
    guest = over(running)
    assert until(lambda: not running.link_is_up(guest))
    running.kill_daemon()
    flush(running)
    with Capture(running.outside) as wire:
        guest.ping("10.50.0.2")
        guest.send(10_000)
        assert IPv4Address(guest.address()) not in wire.sources()
    assert guest.receive(1000) == 0


def test_a_hook_takes_the_link_down_before_the_guest_is_connected(tmp_path: Path) -> None:
    with Host(hooks=(shaping(tmp_path), HOOK)) as host:
        host.start_daemon()
        guest = host.start("web1")
        host.xenbw("block", "web1", "--reason", "abuse")
        host.kill_daemon()
        guest.destroy()
        guest.start()
        assert not host.link_is_up(guest)


def test_a_command_without_a_daemon_keeps_it_down_of_a_guest_that_only_a_hook_s_note_tells_of(tmp_path: Path) -> None:
    with Host(hooks=(shaping(tmp_path), HOOK)) as host:
        host.start_daemon()
        host.add("web1", blocked_reason="test")
        host.ask("sync")
        host.kill_daemon()
        with host.ledger().transaction():
            guest = host.start("web1")
        host.xenbw("addvm", "other", "--limit", "1GB", "--force")
        assert len(pending(host)) == 1
        assert not host.link_is_up(guest)


def test_a_link_that_is_set_up_by_hand_goes_down_again(running: Host) -> None:
    guest = over(running)
    assert until(lambda: not running.link_is_up(guest))
    running.raise_links(guest)
    assert until(lambda: not running.link_is_up(guest))


def test_a_link_that_an_admin_took_down_stays_down_after_the_release(running: Host) -> None:
    guest = running.start("web1")
    running.hinder_drop(guest.interface)
    running.namespace.ip(f"link set {guest.interface} down")
    running.xenbw("block", "web1", "--reason", "abuse")
    running.xenbw("lift", "web1")
    assert not running.link_is_up(guest)


def test_a_routed_guest_keeps_its_link_and_has_its_routes_after_the_release(running: Host) -> None:
    guest = overdrawn(running, ips=("10.51.0.11",), script="vif-route")
    running.hinder_drop(guest.interface)
    routes = running.run(["ip", "route"]).stdout
    running.ask("sync")
    assert running.link_is_up(guest)
    assert "tc refuses xenbw's filter" in running.ask("status")["problems"][0]
    running.xenbw("lift", "web1")
    assert running.run(["ip", "route"]).stdout == routes
    assert guest.reaches("10.50.0.1")
    assert running.ask("status")["problems"] == []


def test_the_mark_of_a_gone_guest_is_removed(running: Host) -> None:
    guest = over(running)
    assert until(lambda: marks(running) != [])
    guest.destroy()
    assert until(lambda: marks(running) == [])


def test_a_link_that_a_hook_took_down_stays_down_until_its_vm_is_known(running: Host) -> None:
    # xenstore does not have vif9.0 yet.
    running.namespace.ip("link add vif9.0 type veth peer name peer", "link set vif9.0 master xenbr0 up")
    assert until(lambda: running.ask("status")["pending_vifs"] == 1)
    index = running.run(["cat", "/sys/class/net/vif9.0/ifindex"]).stdout.strip()
    (running.run_dir / "lowered").mkdir()
    (running.run_dir / "lowered" / index).touch()
    running.namespace.ip("link set vif9.0 down")
    running.ask("sync")
    assert running.run(["ip", "link", "show", "up", "dev", "vif9.0"]).stdout == ""
    running.namespace.ip("link del vif9.0")
    assert until(lambda: marks(running) == [])


def test_without_a_daemon_the_command_line_takes_links_down_and_raises_them(host: Host) -> None:
    host.add("web1")
    guest = host.start("web1")
    host.hinder_drop(guest.interface)
    host.xenbw("block", "web1", "--reason", "abuse", check=False)
    assert not host.link_is_up(guest)
    host.xenbw("lift", "web1")
    assert host.link_is_up(guest)

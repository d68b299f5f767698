"""A blocked guest's vif drops all packets by tc beside its seal: no flush of rules undoes that; the link stays up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support import story
from tests.support.capture import Capture
from tests.support.firewalls import flush
from tests.support.guest import Guest
from tests.support.hooked import pending
from tests.support.host import HOOK, Host
from tests.support.pace import at_last, until
from xenbw.blocks import drop

pytestmark = pytest.mark.kernel

PASS, OTHER = "bpf da bytecode '1,6 0 0 0'", "1,6 0 0 0"
WAYS = ("ingress", "egress")


def marks(host: Host) -> list[str]:
    folder = host.run_dir / "dropped"
    return [mark.name for mark in folder.iterdir()] if folder.exists() else []


def tc(host: Host, words: str) -> subprocess.CompletedProcess[str]:
    return host.run(["sh", "-ec", f"tc {words}"], check=True)


def filters(host: Host, guest: Guest) -> list[str]:
    """The filters on the guest's vif, in both directions."""
    return [tc(host, f"filter show dev {guest.interface} {way}").stdout for way in WAYS]


def has_clsact(host: Host, guest: Guest) -> bool:
    return "clsact" in tc(host, f"qdisc show dev {guest.interface}").stdout


def nothing_passes(host: Host, guest: Guest) -> bool:
    """Whether no packet from the guest arrives outside, and none from outside at the guest, over IPv4 and IPv6."""
    before = guest.counters().in_bytes
    with Capture(host.outside) as wire:
        guest.ping("10.50.0.2")
        sent = [guest.send(10_000, version=version) for version in versions(guest)]
        received = [guest.receive(10_000, version=version) for version in versions(guest)]
        heard = {str(source) for source in wire.sources()} & {guest.address(version) for version in versions(guest)}
    return not any(sent) and not any(received) and not heard and guest.counters().in_bytes == before


def overdrawn(host: Host, name: str = "web1", **start: object) -> Guest:
    """A running VM that has used up its allowance, and whose vif tc holds."""
    guest = story.overdrawn(host, name, **start)
    assert until(lambda: host.drops(guest.interface))
    return guest


def versions(guest: Guest) -> list[int]:
    return sorted({6 if ":" in ip else 4 for card in guest.cards for ip in card.ips})


def held_by_tc_alone(host: Host, guest: Guest) -> bool:
    """Whether nothing passes with the daemon dead and all rules flushed, over a link that is up."""
    assert host.daemon is not None
    if host.daemon.poll() is None:
        host.kill_daemon()
    flush(host)
    return host.link_is_up(guest) and nothing_passes(host, guest)


def test_with_every_rule_flushed_and_the_daemon_dead_no_packet_passes(running: Host) -> None:
    guest = overdrawn(running, ips=("10.50.0.11", "fd50::11"))
    assert held_by_tc_alone(running, guest)
    running.undrop(guest.interface)
    assert not nothing_passes(running, guest)


def test_a_routed_guest_is_held_too(running: Host) -> None:
    guest = overdrawn(running, ips=("10.51.0.11",), script="vif-route")
    running.outside.ip("route replace 10.51.0.11 via 10.50.0.1")
    assert held_by_tc_alone(running, guest)
    running.undrop(guest.interface)
    assert guest.reaches("10.50.0.1")


def test_a_rename_does_not_undo_it(running: Host) -> None:
    guest = overdrawn(running)
    running.kill_daemon()
    guest.rename_vif("tenant")
    guest._await_forwarding(guest.interface)
    assert held_by_tc_alone(running, guest)


def test_a_frontend_that_reconnects_does_not_undo_it(running: Host) -> None:
    guest = overdrawn(running)
    running.kill_daemon()
    # netback takes the carrier from the vif and gives it back; so does the other end of a veth.
    for state in ("down", "up"):
        guest.namespace.ip(f"link set eth0 {state}")
    guest._await_forwarding(guest.interface)
    assert held_by_tc_alone(running, guest)


def test_the_hook_alone_holds_a_restarted_guest_from_its_first_frame(tmp_path: Path) -> None:
    flusher = tmp_path / "zz.hook"  # is called after xenbw's, by its name, and before the guest is connected
    flusher.write_text("nft flush ruleset; iptables-legacy -F; ip6tables-legacy -F\n")
    with Host(hooks=(HOOK, flusher)) as host:
        host.start_daemon()
        guest = overdrawn(host)
        host.kill_daemon()
        guest.destroy()
        with Capture(host.outside) as wire:
            guest.start()
            assert host.link_is_up(guest)
            assert nothing_passes(host, guest)
            assert guest.address() not in {str(source) for source in wire.sources()}
        assert host.run(["nft", "list", "ruleset"]).stdout == ""


def test_a_command_without_a_daemon_keeps_it_on_a_guest_that_only_a_hook_s_note_tells_of(running: Host) -> None:
    guest = held_by_a_note(running)
    running.xenbw("addvm", "other", "--limit", "1GB", "--force")
    assert len(pending(running)) == 1
    assert running.drops(guest.interface)
    assert held_by_tc_alone(running, guest)


def test_a_daemon_that_starts_leaves_it_on_a_guest_that_only_a_hook_s_note_tells_of(running: Host) -> None:
    guest = held_by_a_note(running)
    (mark,) = (running.run_dir / "dropped").iterdir()
    put_at = mark.stat().st_mtime_ns
    running.start_daemon()
    assert until(lambda: pending(running) == [])
    running.ask("sync")
    assert running.drops(guest.interface)
    assert mark.stat().st_mtime_ns == put_at


def test_a_command_without_a_daemon_releases_a_guest_that_only_a_hook_s_note_tells_of(running: Host) -> None:
    guest = held_by_a_note(running)
    running.xenbw("lift", "web1")
    assert len(pending(running)) == 1
    assert not has_clsact(running, guest)
    assert marks(running) == []


def held_by_a_note(host: Host) -> Guest:
    """A guest that the admin blocked and that started without a daemon, while the ledger was locked."""
    host.add("web1", blocked_reason="test")
    host.ask("sync")
    host.kill_daemon()
    with host.ledger().transaction():
        guest = host.start("web1")
    assert host.drops(guest.interface)
    return guest


def test_a_released_guest_has_its_network_and_no_clsact(running: Host) -> None:
    guest = overdrawn(running)
    running.xenbw("lift", "web1")
    assert guest.reaches("10.50.0.2")
    assert not has_clsact(running, guest)
    assert marks(running) == []


def test_a_guest_that_is_given_an_allow_list_is_held_by_its_seal_alone(running: Host) -> None:
    guest = overdrawn(running)
    running.xenbw("addvm", "web1", "--allow", "10.50.0.2")
    assert guest.reaches("10.50.0.2")
    assert not has_clsact(running, guest)
    assert not guest.ping("10.50.0.1")


@pytest.mark.parametrize("undo", ["qdisc del dev {} clsact", "filter del dev {} egress prio 1"])
def test_it_is_put_again_when_another_program_removes_it(running: Host, undo: str) -> None:
    guest = overdrawn(running)
    with running.held_up():
        tc(running, undo.format(guest.interface))
        assert not running.drops(guest.interface)
    assert until(lambda: running.drops(guest.interface))


def test_filters_of_another_program_come_behind_and_stay(running: Host) -> None:
    guest = running.start("web1")
    tc(running, f"qdisc add dev {guest.interface} clsact")
    for way in WAYS:
        tc(running, f"filter add dev {guest.interface} {way} prio 1 handle 1 {PASS}")
    theirs = filters(running, guest)
    running.xenbw("block", "web1", "--reason", "abuse")
    assert all(shown.index("0x7862") < shown.index(OTHER) for shown in filters(running, guest))
    assert held_by_tc_alone(running, guest)
    running.start_daemon()
    running.xenbw("lift", "web1")
    assert filters(running, guest) == theirs
    assert guest.reaches("10.50.0.2")


def test_a_clsact_of_another_program_stays_though_it_is_empty(running: Host) -> None:
    guest = running.start("web1")
    tc(running, f"qdisc add dev {guest.interface} clsact")
    running.xenbw("block", "web1", "--reason", "abuse")
    assert running.drops(guest.interface)
    running.xenbw("lift", "web1")
    assert has_clsact(running, guest)
    assert filters(running, guest) == ["", ""]


def test_a_clsact_that_xenbw_made_stays_if_another_program_uses_it_by_now(running: Host) -> None:
    guest = overdrawn(running)
    tc(running, f"filter add dev {guest.interface} egress prio 7 handle 3 {PASS}")
    running.xenbw("lift", "web1")
    assert [OTHER in shown for shown in filters(running, guest)] == [False, True]
    assert not running.drops(guest.interface)


def test_a_filter_that_comes_ahead_later_is_overtaken(running: Host) -> None:
    guest = overdrawn(running)
    tc(running, f"filter add dev {guest.interface} ingress prio 1 handle 1 {PASS}")

    def overtaken() -> bool:
        shown = filters(running, guest)[0]
        return -1 < shown.find("0x7862") < shown.find(OTHER)

    assert until(overtaken)
    assert running.drops(guest.interface)


def test_where_a_filter_of_another_kind_is_first_the_link_goes_down(running: Host) -> None:
    guest = running.start("web1")
    tc(running, f"qdisc add dev {guest.interface} clsact")
    tc(running, f"filter add dev {guest.interface} egress prio 1 protocol ip u32 match u32 0 0 flowid 1:1")
    theirs = filters(running, guest)
    running.xenbw("block", "web1", "--reason", "abuse")
    assert not running.link_is_up(guest)
    assert at_last(lambda: (filters(running, guest), marks(running)), (theirs, [])) == (theirs, [])
    tc(running, f"filter del dev {guest.interface} egress")
    running.ask("sync")
    assert (running.link_is_up(guest), running.drops(guest.interface)) == (True, True)


def test_a_link_that_an_earlier_version_took_down_comes_up_once_the_drop_stands(running: Host) -> None:
    guest = overdrawn(running)
    running.stop_daemon()
    running.undrop(guest.interface)
    index = running.run(["cat", f"/sys/class/net/{guest.interface}/ifindex"]).stdout.strip()
    (running.run_dir / "lowered").mkdir()
    (running.run_dir / "lowered" / index).touch()
    (running.run_dir / "dropped" / index).unlink()
    running.namespace.ip(f"link set {guest.interface} down")
    running.start_daemon()
    assert until(lambda: running.link_is_up(guest))
    assert running.drops(guest.interface)


def test_the_mark_of_a_gone_guest_is_removed(running: Host) -> None:
    guest = overdrawn(running)
    assert marks(running) != []
    guest.destroy()
    assert until(lambda: marks(running) == [])


def test_a_drop_that_a_hook_put_stays_until_its_vm_is_known(running: Host) -> None:
    # xenstore does not have vif9.0 yet.
    running.namespace.ip("link add vif9.0 type veth peer name peer", "link set vif9.0 master xenbr0 up")
    assert until(lambda: running.ask("status")["pending_vifs"] == 1)
    with running.namespace.entered():
        index = int(running.run(["cat", "/sys/class/net/vif9.0/ifindex"]).stdout)
        drop.Drop(str(running.run_dir)).put(index)
    running.ask("sync")
    assert running.drops("vif9.0")


def test_without_a_daemon_the_command_line_puts_the_drop_and_removes_it(host: Host) -> None:
    host.add("web1")
    guest = host.start("web1")
    host.xenbw("block", "web1", "--reason", "abuse", check=False)
    assert host.drops(guest.interface)
    host.xenbw("lift", "web1")
    assert not has_clsact(host, guest)
    assert guest.reaches("10.50.0.2")


def test_what_a_guest_sends_into_the_drop_is_refused_and_no_usage(running: Host) -> None:
    guest = overdrawn(running)
    used = running.usage("web1")
    guest.send(100_000)
    assert until(lambda: refused(running) > 100_000)
    # A gap in our counters is bridged by the kernel's, which count what is dropped.
    guest.send(100_000)
    running.run(["nft", "flush", "ruleset"], check=True)
    assert until(lambda: refused(running) > 200_000)
    assert running.usage("web1") == used


def refused(host: Host) -> int:
    host.ask("commit")
    (binding,) = host.ledger().live_bindings().values()
    return binding.counted.refused_out_bytes


@pytest.mark.parametrize("meter", ["nft", "kernel"])
def test_what_a_guest_sends_into_the_drop_while_no_daemon_runs_is_no_usage(meter: str) -> None:
    with Host(f'[meter]\nsource = "{meter}"\n') as host:
        host.start_daemon()
        guest = overdrawn(host)
        used = host.usage("web1")
        host.kill_daemon()
        guest.send(500_000)
        flush(host)
        guest.send(500_000)
        host.start_daemon()
        assert until(lambda: refused(host) > 1_000_000)
        assert host.usage("web1") == used


def test_the_removal_of_the_package_takes_away_drops_and_nothing_of_others(running: Host) -> None:
    guest, other = overdrawn(running), overdrawn(running, "web2", ips=("10.50.0.12",))
    tc(running, f"filter add dev {other.interface} egress prio 7 handle 3 {PASS}")
    running.stop_daemon()
    flush(running)
    running.run(["sh", "-euc", drop.UNDO, "undo", running.run_dir], check=True)
    assert not has_clsact(running, guest)
    assert [OTHER in shown for shown in filters(running, other)] == [False, True]
    assert (guest.reaches("10.50.0.2"), other.reaches("10.50.0.2")) == (True, True)
    assert not (running.run_dir / "dropped").exists()

"""xenbwd counts every byte once though it is killed and restarted, and sees each vif that comes and goes."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.guest import ScriptError, agree
from tests.support.host import Host, covered, run_xenbwd
from tests.support.pace import at_last, until
from tests.support.story import LIMIT
from xenbw.ledger import viflog

pytestmark = pytest.mark.kernel


# every byte once


def test_a_killed_daemon_loses_no_byte_and_counts_none_twice(running: Host) -> None:
    guest = running.start("web1")
    for _ in range(5):
        guest.send(200_000)
        running.kill_daemon()
        guest.receive(100_000)
        running.start_daemon()
    counted = running.quiet(guest)
    assert at_last(lambda: running.usage("web1"), counted) == counted


def test_a_vif_that_came_while_no_daemon_ran_is_counted_from_its_first_byte(running: Host) -> None:
    running.stop_daemon()
    guest = running.start("web1")
    guest.send(300_000)
    running.start_daemon()
    counted = running.quiet(guest)
    assert at_last(lambda: running.usage("web1"), counted) == counted


def test_the_last_bytes_of_a_vif_that_ended_while_no_daemon_ran_are_counted(running: Host) -> None:
    guest = running.start("web1")
    guest.send(300_000)
    counted = running.quiet(guest)
    assert at_last(lambda: running.usage("web1"), counted) == counted
    running.hook_env["XENBW_HOOK"] = "/nonexistent"
    running.kill_daemon()
    guest.stop()
    running.start_daemon()
    assert until(lambda: not running.ledger().live_bindings())
    assert running.usage("web1") == counted


@pytest.mark.parametrize("poked", [True, False])
def test_a_vif_that_ended_before_the_daemon_read_its_binding_is_counted(running: Host, poked: bool) -> None:
    assert running.daemon is not None
    running.daemon.send_signal(signal.SIGSTOP)
    socket, away = running.run_dir / "xenbwd.sock", running.run_dir / "away"
    if not poked:
        socket.rename(away)
    guest = running.start("web1")
    guest.send(300_000)
    counted = running.quiet(guest)
    running.hook_env["XENBW_HOOK"] = "/nonexistent"
    guest.stop()
    if not poked:
        away.rename(socket)
    running.daemon.send_signal(signal.SIGCONT)
    assert until(lambda: viflog.latest(running.ledger()) != [] and not running.ledger().live_bindings())
    assert at_last(lambda: running.usage("web1"), counted) == counted


def test_bytes_from_before_the_first_start_of_xenbw_are_not_charged(host: Host) -> None:
    host.hook_env["XENBW_HOOK"] = "/nonexistent"
    guest = host.start("old")
    guest.send(500_000)
    before = guest.counters()
    host.start_daemon()
    assert until(lambda: host.ask("status")["interfaces"] == 1)
    guest.send(100_000)
    counted = host.quiet(guest)
    # The guest may send neighbour discovery between our reading of its counters and the daemon's.
    assert until(lambda: 100_000 < host.usage("old").out_bytes <= counted.out_bytes - before.out_bytes)
    assert host.usage("old").out_bytes < 110_000


def test_a_failed_commit_is_repeated_later(running: Host) -> None:
    guest = running.start("web1")
    running.ask("commit")
    with running.ledger().transaction():
        guest.send(200_000)
        assert until(lambda: running.ask("commit") == {"ok": False})
        assert any("ledger" in problem for problem in running.ask("status")["problems"])
    counted = running.quiet(guest)
    assert at_last(lambda: running.usage("web1"), counted) == counted
    assert running.ask("status")["problems"] == []


def test_a_vm_that_goes_over_while_the_ledger_cannot_be_written_is_blocked(running: Host) -> None:
    guest = running.start("web1")
    running.add("web1", limit_bytes=LIMIT)
    running.ask("sync")
    with running.ledger().transaction():
        guest.send(LIMIT)
        assert until(lambda: running.blocked(guest.address()))
    assert until(lambda: len(running.ledger().active_blocks()) == 1)
    assert running.blocked(guest.address())


@pytest.mark.parametrize("killed", [True, False])
def test_bytes_of_a_renamed_or_removed_vm_are_counted_once(running: Host, killed: bool) -> None:
    guest = running.start("web1")
    running.xenbw("addvm", "web1", "--limit", "1TB")
    guest.send(300_000)
    counted = running.quiet(guest)
    running.xenbw("rmvm", "web1", "--yes")
    if killed:
        running.kill_daemon()
    else:
        running.stop_daemon()
    running.start_daemon()
    everyone = running.ledger()
    assert until(lambda: running.ask("commit") == {"ok": True})
    rows = everyone.rows("SELECT sum(in_bytes), sum(out_bytes) FROM usage")
    assert tuple(rows[0]) == tuple(counted)


def test_a_late_note_of_a_hook_is_recorded_without_another_hook(running: Host) -> None:
    with running.ledger().transaction():
        guest = running.start("web1")
        (note,) = (running.run_dir / "pending").iterdir()
        assert note.stat().st_mode & 0o077 == 0
    assert until(lambda: len(running.ledger().live_bindings()) == 1)
    assert until(lambda: list((running.run_dir / "pending").iterdir()) == [])
    guest.stop()


def test_a_late_note_of_a_vifs_start_leaves_no_live_binding_after_its_end(host: Host) -> None:
    guest = host.start("web1")
    host.hook_env["XENBW_HOOK"] = "/nonexistent"
    guest.stop()
    host.start_daemon()
    assert host.ledger().live_bindings() == {}


def test_a_second_daemon_on_the_same_ledger_is_refused(running: Host) -> None:
    other = running.directory / "other.toml"
    other.write_text(f'[daemon]\nrun_dir = "{running.directory}/other"\n[ledger]\npath = "{running.ledger_path}"\n')
    first, running.config = running.config, other
    done = run_xenbwd(running)
    running.config = first
    assert (done.returncode, "another xenbwd" in done.stderr) == (1, True)


# the watcher


def test_an_interface_whose_name_is_not_utf8_is_metered(running: Host) -> None:
    guest = running.start("web1")
    running.run(
        ["sh", "-c", f"ip link set {guest.interface} down; ip link set {guest.interface} name \"$(printf 'w\\351')\""]
    )
    running.run(["sh", "-c", "ip link set \"$(printf 'w\\351')\" up"])
    assert until(lambda: [b.interface for b in running.ledger().live_bindings().values()] == ["w\\xe9"])
    guest.ping("10.50.0.2", timeout=1)
    guest.send(100_000)
    assert until(lambda: running.usage("web1").out_bytes > 100_000)
    running.stop_daemon()
    running.start_daemon()
    assert until(lambda: running.ask("status")["interfaces"] == 1)


def test_a_vif_without_a_hook_call_is_bound_once_it_is_connected(host: Host) -> None:
    host.hook_env["XENBW_HOOK"] = "/nonexistent"
    host.start_daemon()
    guest = host.start("ovs guest", vifname="web0")
    guest.send(100_000)
    counted = host.quiet(guest)
    assert until(lambda: agree(host.usage("ovs guest"), counted))
    (binding,) = host.ledger().live_bindings().values()
    assert (binding.interface, binding.mac, str(binding.ips[0])) == ("web0", "00:16:3e:50:01:00", guest.address())
    guest.stop()
    assert until(lambda: not host.ledger().live_bindings())


def test_a_blocked_vm_without_a_hook_call_is_blocked_when_the_watcher_finds_its_vif(host: Host) -> None:
    host.hook_env["XENBW_HOOK"] = "/nonexistent"
    host.start_daemon()
    host.add("web1", blocked_reason="test")
    host.ask("sync")
    guest = host.start("web1")
    assert until(lambda: host.blocked(guest.address()))


def test_a_short_life_without_a_hook_call_that_was_never_seen_connected_is_counted(host: Host) -> None:
    host.hook_env["XENBW_HOOK"] = "/nonexistent"
    host.start_daemon()
    for number in range(3):
        guest = host.start("brief")
        # What passes before the daemon has found the vif is lost with it.
        assert until(lambda guest=guest: covered(host, guest.interface))
        guest.send(30_000)
        guest.stop()
        lives = number + 1
        assert at_last(lambda: host.usage("brief").out_bytes // 30_000, lives) == lives
    assert until(lambda: not host.ledger().live_bindings())


def test_a_vif_whose_script_failed_belongs_to_no_vm(host: Host) -> None:
    host.hook_env["XENBW_HOOK"] = "/nonexistent"
    host.start_daemon()
    with pytest.raises(ScriptError):
        host.start("mistyped", bridge="nosuchbridge")
    time.sleep(1.5)
    assert host.ledger().vm_named("mistyped") is None


def test_a_vif_that_ended_while_the_ledger_could_not_be_written_is_counted_soon_after(running: Host) -> None:
    guest = running.start("web1")
    guest.send(100_000)
    counted = running.quiet(guest)
    running.hook_env["XENBW_HOOK"] = "/nonexistent"
    with running.ledger().transaction():
        guest.stop()
        assert until(lambda: any("ledger" in problem for problem in running.ask("status")["problems"]))
    assert until(lambda: not running.ledger().live_bindings())
    assert at_last(lambda: running.usage("web1"), counted) == counted


def test_a_vif_is_not_bound_before_its_script_has_connected_it(host: Host) -> None:
    host.hook_env["XENBW_HOOK"] = "/nonexistent"
    host.start_daemon()
    guest = host.start("web1")
    assert until(lambda: len(host.ledger().live_bindings()) == 1)
    guest.stop()
    host.store.write_all({"/local/domain/9/name": "slow"})
    backend = "/local/domain/0/backend/vif/9/0"
    host.store.write_all({f"{backend}/frontend-id": "9", f"{backend}/mac": "00:16:3e:00:00:09"})
    host.namespace.ip("link add vif9.0 type veth peer name far")
    assert until(lambda: host.ask("status")["pending_vifs"] == 1)
    time.sleep(1.5)
    assert host.ledger().live_bindings() == {}
    host.store.write_all({f"{backend}/hotplug-status": "connected"})
    assert until(lambda: len(host.ledger().live_bindings()) == 1)


def test_a_renamed_interface_goes_on_being_counted(running: Host) -> None:
    guest = running.start("web1")
    guest.send(100_000)
    guest.rename_vif("customer7")
    guest.ping("10.50.0.2", timeout=1)
    guest.send(100_000)
    counted = running.quiet(guest)
    assert until(lambda: agree(running.usage("web1"), counted))
    (binding,) = running.ledger().live_bindings().values()
    assert binding.interface == "customer7"


def test_a_quick_restart_under_the_same_interface_name_is_two_bindings(running: Host) -> None:
    guest = running.start("web1", vifname="web0")
    guest.send(400_000)
    first = running.quiet(guest)
    assert at_last(lambda: running.usage("web1"), first) == first
    guest.reboot()
    guest.send(100_000)
    second = running.quiet(guest)
    assert until(lambda: running.usage("web1") == first.plus(second))


def test_a_renamed_domain_is_charged_under_its_new_name_from_then_on(running: Host) -> None:
    guest = running.start("old name")
    guest.send(100_000)
    assert until(lambda: running.usage("old name") == guest.counters())
    running.store.write_all({f"/local/domain/{guest.domid}/name": "new name"})
    running.stop_daemon()
    running.start_daemon()
    assert until(lambda: {vm.name for vm in running.ledger().vms().values()} == {"old name", "new name"})
    running.ask("status")  # the answer comes after the daemon has read the change
    guest.send(200_000)
    counted = running.quiet(guest)
    assert at_last(lambda: running.usage("old name").plus(running.usage("new name")), counted) == counted
    assert 100_000 < running.usage("old name").out_bytes < 110_000
    assert 200_000 < running.usage("new name").out_bytes < 220_000

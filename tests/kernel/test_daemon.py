"""xenbwd in trouble: it is killed or restarted, xenstored is silent, other programs change the firewall."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.support.guest import ScriptError, agree
from tests.support.host import Host
from tests.support.pace import at_last, busy, until
from xenbw.ledger import viflog
from xenbw.rundir import control

pytestmark = pytest.mark.kernel

LIMIT = 1_000_000


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
    done = _xenbwd(running)
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


# failures of other programs


def test_the_daemon_works_on_while_xenstored_hangs(running: Host) -> None:
    guest = running.start("web1")
    running.add("web1", limit_bytes=LIMIT)
    running.ask("sync")
    running.store.hang()
    running.namespace.ip("link add vif77.0 type veth peer name far")
    guest.send(LIMIT)
    assert until(lambda: running.blocked(guest.address()))
    running.store.resume()


def test_the_daemon_survives_a_dead_xenstored(running: Host) -> None:
    guest = running.start("web1")
    running.store.die()
    running.namespace.ip("link add vif77.0 type veth peer name far")
    guest.send(100_000)
    counted = running.quiet(guest)
    assert at_last(lambda: running.usage("web1"), counted) == counted
    assert running.stop_daemon() == 0


@pytest.mark.parametrize(
    "meddling",
    [
        "iptables-legacy -F FORWARD",
        "iptables-legacy -F",
        "iptables-legacy -F && iptables-legacy -X",
        "iptables-legacy -I FORWARD -j ACCEPT",
        "iptables-legacy -I XENBW -j ACCEPT",
        "iptables-legacy -D XENBW 1",
        "iptables-legacy -I XENBW ! -s 192.0.2.1 -j ACCEPT",
        "iptables-legacy -D OUTPUT -j XENBW",
        "iptables-legacy -A FORWARD -j XENBW",
        "printf '*filter\\n:INPUT ACCEPT\\n:FORWARD ACCEPT\\n:OUTPUT ACCEPT\\n-A FORWARD -j ACCEPT\\nCOMMIT\\n'"
        " | iptables-legacy-restore",
    ],
)
def test_a_block_that_another_program_removed_or_shadowed_is_repaired_and_its_rules_stay(
    running: Host, meddling: str
) -> None:
    running.add("web1", blocked_reason="test")
    guest = running.start("web1")
    running.ask("sync")
    good = sorted(rule for rule in running.rules() if "XENBW" in rule)
    running.run(["sh", "-c", meddling], check=True)

    def whole() -> bool:
        rules, chains = running.rules(), ("INPUT", "OUTPUT", "FORWARD")
        first = [next((rule for rule in rules if rule.startswith(f"-A {chain} ")), None) for chain in chains]
        jumps = [f"-A {chain} -j XENBW" for chain in chains]
        return first == jumps and sorted(rule for rule in rules if "XENBW" in rule) == good

    assert until(whole)
    assert not guest.ping("10.50.0.2", timeout=0.2)
    if meddling.endswith("FORWARD -j ACCEPT"):
        assert "-A FORWARD -j ACCEPT" in running.rules()


def test_null_routes_lost_together_with_a_change_of_nft_are_back_in_the_next_round(host: Host) -> None:
    host.configure("[enforce]\ninterval = 300\n")
    host.start_daemon()
    guest = host.start("web1")
    host.xenbw("block", "web1")
    assert until(lambda: host.blocked(guest.address()))
    host.run(["iptables-legacy", "-F"], check=True)
    host.run(["nft", "add", "table", "ip", "theirs"], check=True)
    assert until(lambda: host.blocked(guest.address()), seconds=5)


def test_concurrent_writers_of_iptables_do_not_lose_a_block(running: Host) -> None:
    running.add("web1", blocked_reason="test")
    guest = running.start("web1")
    noise = "for i in $(seq 100); do iptables-legacy -w -A INPUT -s 192.0.2.$i -j DROP; done"
    writer = running.popen(["sh", "-c", noise], output=running.directory / "noise")
    for state in ("1", None) * 5:
        running.add("web1", blocked_reason=state)
        running.ask("sync")
    running.add("web1", blocked_reason="test")
    running.ask("sync")
    writer.wait()
    assert until(lambda: running.blocked(guest.address()))
    assert len([rule for rule in running.rules() if "192.0.2." in rule]) == 100


def test_a_damaged_ledger_is_set_aside_and_blocks_stay(running: Host) -> None:
    running.add("web1", limit_bytes=LIMIT)
    guest = running.start("web1")
    guest.send(LIMIT)
    assert until(lambda: running.blocked(guest.address()))
    running.kill_daemon()
    for path in running.state.iterdir():
        path.unlink()
    running.ledger_path.write_bytes(b"no ledger " * 4000)
    running.start_daemon()
    assert running.blocked(guest.address())
    assert not guest.ping("10.50.0.2", timeout=0.2)
    (aside,) = running.state.glob("ledger.db.damaged-*")
    assert aside.read_bytes() == b"no ledger " * 4000
    running.xenbw("lift", "web1")
    assert guest.reaches("10.50.0.2")


def test_the_readable_part_of_a_damaged_ledger_is_carried_over(running: Host) -> None:
    guest = running.start("web1")
    running.xenbw("addvm", "web1", "--limit", "5TB", "--reset-day", "7")
    guest.send(300_000)
    counted = running.quiet(guest)
    assert at_last(lambda: running.usage("web1"), counted) == counted
    assert running.stop_daemon() == 0
    whole = running.ledger()
    whole.close()
    data = bytearray(running.ledger_path.read_bytes())
    # Damage a page of an index: whole tables can still be read.
    page = _root_page(running, "event_at")
    data[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    running.ledger_path.write_bytes(data)
    running.start_daemon()
    document = running.show("web1")
    assert (document["limit_bytes"], document["out_bytes"]) == (5 * 10**12, counted.out_bytes)


def _root_page(host: Host, index: str) -> int:
    import sqlite3

    with sqlite3.connect(host.ledger_path) as db:
        return int(db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (index,)).fetchone()[0])


def test_a_newer_ledger_is_refused_and_left_untouched(host: Host) -> None:
    host.ledger().close()
    host.run(
        ["python3", "-c", f"import sqlite3; sqlite3.connect('{host.ledger_path}').execute('PRAGMA user_version=99')"]
    )
    before = host.ledger_path.read_bytes()
    done = _xenbwd(host)
    assert done.returncode == 1
    assert "newer xenbw" in done.stdout + done.stderr
    assert host.ledger_path.read_bytes() == before


def _xenbwd(host: Host) -> subprocess.CompletedProcess[str]:
    import sys

    from tests.support.host import REPO

    return host.run([sys.executable, "-m", "xenbw.daemon", "--config", str(host.config)], env={"PYTHONPATH": str(REPO)})


def test_a_second_daemon_is_refused(running: Host) -> None:
    done = _xenbwd(running)
    assert done.returncode == 1
    assert "another xenbwd is running" in done.stderr


def test_a_bad_config_stops_the_start_with_one_line(host: Host) -> None:
    host.configure('[meter]\nsource = "guess"\n')
    done = _xenbwd(host)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "[meter] source = 'guess'" in done.stderr


# start, reload and stop


def test_blocks_stay_when_the_daemon_stops_cleanly(running: Host) -> None:
    running.add("web1", blocked_reason="test")
    guest = running.start("web1")
    running.ask("sync")
    assert running.stop_daemon() == 0
    assert running.blocked(guest.address())
    assert not guest.ping("10.50.0.2", timeout=0.2)
    assert not (running.run_dir / "xenbwd.sock").exists()


def test_systemd_gets_ready_status_watchdog_and_reloading(host: Host) -> None:
    host.start_daemon()
    heard = host.notified("WATCHDOG=1")
    assert any(word.startswith("STATUS=") and "metered" in word for word in heard)
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGHUP)
    heard = host.notified("READY=1")
    assert "RELOADING=1" in heard
    assert any(word.startswith("MONOTONIC_USEC=") for word in heard)
    assert host.stop_daemon() == 0
    host.notified("STOPPING=1")


def test_a_bad_config_at_reload_keeps_the_old_one(running: Host) -> None:
    guest = running.start("web1")
    running.configure("[meter]\ninterval = -1\n")
    assert running.daemon is not None
    running.daemon.send_signal(signal.SIGHUP)
    running.notified("READY=1")
    assert "not allowed" in running.log.read_text()
    running.configure("")
    guest.send(100_000)
    assert until(lambda: running.usage("web1").out_bytes > 100_000)


def test_a_reload_cannot_move_the_ledger_from_under_the_hooks(running: Host) -> None:
    elsewhere = running.directory / "elsewhere"
    running.configure(f'[daemon]\nrun_dir = "{elsewhere}"\n')
    assert running.daemon is not None
    running.daemon.send_signal(signal.SIGHUP)
    running.notified("READY=1")
    running.configure("")
    assert any("next restart" in problem for problem in running.ask("status")["problems"])
    assert not elsewhere.exists()


def test_with_thousands_of_vms_the_daemon_asks_systemd_for_more_start_time(host: Host) -> None:
    host.start_daemon()
    assert not any("EXTEND_TIMEOUT_USEC" in word for word in host.started)
    host.stop_daemon()
    with host.ledger().transaction() as db:
        rows = [(f"vm{number}", "2026-03-01T00:00:00.000000+00:00") for number in range(1500)]
        db.executemany("INSERT INTO vm (name, found_at, rev) VALUES (?, ?, 0)", rows)
    host.start_daemon()
    (asked,) = (word for word in host.started if word.startswith("EXTEND_TIMEOUT_USEC="))
    assert int(asked.partition("=")[2]) == 12_500_000


@pytest.mark.parametrize("what", ["run", "run/xenbwd.sock"])
def test_a_removed_run_folder_is_made_again(running: Host, what: str) -> None:
    running.run(["rm", "-r", str(running.directory / what)], check=True)
    assert until(lambda: control.socket_path(running.run_dir).exists() and running.ask("status") != {})
    assert (running.run_dir / "over").exists()
    second = running.run([sys.executable, "-m", "xenbw.daemon", "--config", str(running.config)])
    assert (second.returncode, "another xenbwd is running" in second.stderr) == (1, True)
    assert running.ask("sync")["ok"]


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 4096,
        b'{"op":' * 700,
        b'{"op": [[]]}',
        b"{" * 5000,
        b"\xff\xfe",
        b"1",
        b'"op"',
        b'{"op": 7}',
        b'{"on": "poke"}',
    ],
    ids=["lists", "objects", "list as op", "long", "no text", "number", "string", "number as op", "no op"],
)
def test_an_invalid_request_is_answered_with_an_error(running: Host, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(busy(10))
        caller.connect(str(control.socket_path(running.run_dir)))
        caller.sendall(line + b"\n")
        with contextlib.suppress(ConnectionResetError):  # the unread rest of a long line
            assert "error" in json.loads(caller.recv(4096))
    assert running.ask("poke") == {"ok": True}


def test_ready_is_sent_after_the_blocks_are_applied(host: Host) -> None:
    host.start_daemon()
    host.add("web1", blocked_reason="test")
    guest = host.start("web1")
    host.ask("sync")
    host.kill_daemon()
    host.run(["iptables-legacy", "-F"])
    host.start_daemon()
    assert host.blocked(guest.address())

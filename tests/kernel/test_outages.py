"""xenbwd while other programs fail, and at its start, its reload and its stop."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import sys

import pytest

from tests.support.host import Host, run_xenbwd
from tests.support.pace import at_last, busy, until
from tests.support.story import LIMIT
from xenbw.rundir import control

pytestmark = pytest.mark.kernel


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


@pytest.mark.parametrize("allow", ["none", "192.0.2.1"], ids=["rule by rule", "the whole chain"])
def test_null_routes_that_stand_are_checked_without_the_lock_for_which_other_programs_do_not_wait(
    running: Host, allow: str
) -> None:
    guest = running.start("web1")
    running.xenbw("addvm", "web1", "--limit", "1TB", "--allow", allow)
    running.xenbw("block", "web1")
    assert until(lambda: running.blocked(guest.address()))

    def problems() -> list[str]:
        running.ask("sync")
        return [one for one in running.ask("status")["problems"] if "xtables.lock" in one]

    holder = running.popen(["flock", "-o", "/run/xtables.lock", "sleep", "3600"], output=running.directory / "flock")
    try:
        assert until(lambda: running.run(["flock", "-n", "/run/xtables.lock", "true"]).returncode != 0)
        assert problems() == []
        running.run(["iptables-legacy", "-F", "XENBW"], env={"XTABLES_LOCKFILE": "/dev/null"}, check=True)
        assert problems() != []
    finally:
        holder.kill()
    assert until(lambda: running.blocked(guest.address()))


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
    done = run_xenbwd(host)
    assert done.returncode == 1
    assert "newer xenbw" in done.stdout + done.stderr
    assert host.ledger_path.read_bytes() == before


def test_a_second_daemon_is_refused(running: Host) -> None:
    done = run_xenbwd(running)
    assert done.returncode == 1
    assert "another xenbwd is running" in done.stderr


def test_a_bad_config_stops_the_start_with_one_line(host: Host) -> None:
    host.configure('[meter]\nsource = "guess"\n')
    done = run_xenbwd(host)
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

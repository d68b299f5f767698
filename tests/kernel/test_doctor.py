"""xenbw doctor on a healthy dom0, and on a dom0 that is broken in the ways that doctor checks."""

from __future__ import annotations

import fcntl
import json
import shlex
import signal
import socket
import stat
import subprocess
import sys
from typing import Any

import pytest

from tests.support.dom0 import BRIDGE, OUTSIDE_ADDRESSES
from tests.support.guest import Guest
from tests.support.host import REPO, Host
from tests.support.nftprogram import replace_nft, without_limits
from tests.support.pace import busy, until
from tests.support.story import LIMIT
from xenbw.model import Action

HOOK = "/etc/xen/scripts/vif-post.d/xenbw.hook"
Told = dict[str, list[dict[str, Any]]]


def doctor(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    """`xenbw doctor words...` in dom0."""
    return host.run([sys.executable, "-m", "xenbw.cli.main", "doctor", *words], env=env(host), timeout=busy(90))


def env(host: Host) -> dict[str, str]:
    program = str(REPO / "hooks" / "vif-hook")
    return {"PYTHONPATH": str(REPO), "XENBW_CONFIG": str(host.config), "XENBW_HOOK": program}


def told(host: Host, *words: str) -> Told:
    """What doctor finds, by topic."""
    done = doctor(host, "--json", *words)
    found: Told = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["topic"], []).append(finding)
    return found


def failures(found: Told) -> list[str]:
    return [f"{topic}: {one['text']}" for topic, of in found.items() for one in of if one["level"] == "FAIL"]


def levels(found: Told, topic: str) -> list[str]:
    return [finding["level"] for finding in found[topic]]


def mend(host: Host, finding: dict[str, Any]) -> None:
    """Run the fix that doctor prints."""
    host.run(["sh", "-c", finding["fix"]], check=True)


# a healthy host


def test_a_healthy_host_has_no_failure(running: Host) -> None:
    running.start("web1")
    found = told(running)
    assert failures(found) == []
    proven = ("seal", "throttle", "null route")
    for topic in ("xen", "kernel", "daemon", "hook", "vif scripts", "firewall", "iptables", *proven):
        assert set(levels(found, topic)) == {"PASS"}, found[topic]
    assert levels(found, "meter") == ["PASS", "PASS"]


def test_the_exit_status_and_the_last_line_tell_whether_a_check_failed(running: Host) -> None:
    done = doctor(running)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith(" 0 FAIL")
    (running.etc / "scripts/vif-post.d/xenbw.hook").chmod(0o644)
    done = doctor(running)
    assert done.returncode == 1
    assert f"FAIL  hook: {HOOK} is not executable: Xen skips it\n      fix: chmod 755 {HOOK}\n" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(" 1 FAIL")
    assert "1 FAIL" in running.xenbw("status").stdout
    assert json.loads(running.xenbw("status", "--json").stdout)["doctor"]["fail"] == 1


# a host that is broken


def test_a_missing_hook_is_found(running: Host) -> None:
    (running.etc / "scripts/vif-post.d/xenbw.hook").unlink()
    assert levels(told(running), "hook") == ["FAIL"]


def test_a_guest_whose_script_calls_no_hook_is_named(running: Host) -> None:
    script = (running.etc / "scripts/vif-bridge").read_text().replace("call_hooks vif post", ":")
    (running.etc / "scripts/mine").write_text(script)
    (running.etc / "scripts/mine").chmod(0o755)
    running.start("web1")
    running.start("web2\x1b[2J", script="mine")
    shown = doctor(running).stdout
    assert r"WARN  vif scripts: /etc/xen/scripts/mine never calls vif-post.d (vif2.0 of web2\x1b[2J)" in shown
    assert "\x1b" not in shown


def test_a_daemon_that_does_not_run_is_a_failure(host: Host) -> None:
    found = told(host)
    assert levels(found, "daemon") == ["FAIL"]
    assert levels(found, "ledger") == ["FAIL"]


def test_a_rule_that_lets_a_blocked_guest_pass_is_named_and_the_fix_deletes_it(running: Host) -> None:
    guest = running.start("web1")
    running.xenbw("block", "web1")
    assert levels(told(running), "firewall") == ["PASS"]
    # A running daemon would put its own jump first again.
    running.kill_daemon()
    rule = ["-s", f"{guest.address()}/32", "-m", "comment", "--comment", "a good customer", "-j", "ACCEPT"]
    running.run(["iptables-legacy", "-I", "INPUT", *rule], check=True)
    (finding,) = told(running)["firewall"]
    assert finding["level"] == "FAIL"
    assert f"-A INPUT {shlex.join(rule[:4])}" in finding["text"]
    mend(running, finding)
    assert levels(told(running), "firewall") == ["PASS"]


def test_flushed_null_routes_are_found(running: Host) -> None:
    running.start("web1")
    running.xenbw("block", "web1")
    running.kill_daemon()
    running.run(["iptables-legacy", "-D", "FORWARD", "-j", "XENBW"], check=True)
    (finding,) = told(running)["firewall"]
    assert (finding["level"], "FORWARD has lost its jump" in finding["text"]) == ("FAIL", True)


def test_null_routes_that_were_restored_into_nft_are_found_and_the_fix_deletes_them(running: Host) -> None:
    running.start("web1")
    running.xenbw("block", "web1")
    saved = running.run(["iptables-legacy-save"], check=True).stdout
    running.namespace.run(["iptables-nft-restore"], text_input=saved, check=True)
    running.xenbw("lift", "web1")
    (finding,) = (one for one in told(running)["iptables"] if one["level"] == "FAIL")
    mend(running, finding)
    assert set(levels(told(running), "iptables")) == {"PASS"}


def test_a_saved_ruleset_that_names_our_table_is_found_since_nft_refuses_all_of_it(running: Host) -> None:
    guest = running.start("web1")
    saved = running.directory / "nftables.conf"
    rules = running.run(["nft", "list", "ruleset"], check=True).stdout
    saved.write_text("table inet mine {}\n" + rules)
    running.run(["mount", "--bind", str(saved), "/etc/nftables.conf"], check=True)
    (finding,) = told(running)["saved rules"]
    assert (finding["level"], "/etc/nftables.conf names" in finding["text"]) == ("FAIL", True)
    guest.destroy()
    running.kill_daemon()
    running.run(["nft", "flush", "ruleset"], check=True)
    assert running.run(["nft", "-f", "/etc/nftables.conf"]).returncode != 0
    assert "mine" not in running.run(["nft", "list", "ruleset"]).stdout


def test_where_iptables_does_not_see_bridges_the_null_route_is_proven_by_traffic_through_dom0(running: Host) -> None:
    for version in ("iptables", "ip6tables"):
        running.run(["sh", "-c", f"echo 0 >/proc/sys/net/bridge/bridge-nf-call-{version}"], check=True)
    found = told(running)
    assert "does not see IPv4 and IPv6" in found["bridges"][0]["text"]
    (finding,) = found["null route"]
    assert (finding["level"], "without br_netfilter" in finding["text"]) == ("PASS", True)


def test_a_guest_shaped_through_another_device_is_found_since_it_is_not_metered(running: Host) -> None:
    guest = running.start("web1")
    guest.ping("10.50.0.2")
    running.namespace.ip("link add ifb9 type ifb", "link set ifb9 up")
    to_ifb = "protocol all u32 match u32 0 0 action mirred egress redirect dev ifb9"
    running.run(["tc", "qdisc", "add", "dev", guest.interface, "ingress"], check=True)
    running.run(["tc", "filter", "add", "dev", guest.interface, "parent", "ffff:", *to_ifb.split()], check=True)
    before = running.usage("web1").out_bytes
    assert guest.send(50_000) == 50_000
    assert running.usage("web1").out_bytes - before < 50_000
    assert any("tc redirects what comes from vif1.0" in failure for failure in failures(told(running)))


def test_vifs_that_only_nfts_rules_seal_are_found_and_so_are_filters_without_a_mark(running: Host) -> None:
    guest, other = running.start("web1", ("10.51.0.11",), script="vif-route"), running.start("web2")
    for name in ("web1", "web2"):
        running.xenbw("block", name)
    running.undrop(guest.interface)
    running.hinder_drop(guest.interface)
    for mark in (running.run_dir / "dropped").iterdir():
        mark.unlink()
    found = {one["text"].partition(":")[0]: one for one in told(running)["seal"] if one["level"] == "WARN"}
    bare, stray = f"only nft's rules seal {guest.interface}", f"xenbw's tc filter on {other.interface} has no mark"
    assert [any(text.startswith(words) for text in found) for words in (bare, stray)] == [True, True]
    (fix,) = (one for text, one in found.items() if text.startswith(stray))
    mend(running, fix)
    assert not running.drops(other.interface)


def test_an_nft_program_that_does_nothing_is_found(running: Host) -> None:
    (running.bin_dir / "nft").write_text("#!/bin/sh\ncat >/dev/null\n")
    (running.bin_dir / "nft").chmod(0o755)
    found = told(running)
    assert levels(found, "meter") == ["PASS", "FAIL"]
    assert levels(found, "seal") == ["FAIL", "PASS"]  # by nft, and by tc


def test_a_host_that_cannot_throttle_is_told(running: Host) -> None:
    without_limits(running)
    found = told(running)
    assert levels(found, "meter") == ["PASS", "PASS"]
    (finding,) = found["throttle"]
    assert finding["level"] == "WARN"
    assert finding["text"].startswith("VMs cannot be throttled on this host: nft refuses limits in netdev chains: ")


def test_a_throttle_that_lets_everything_pass_is_found(running: Host) -> None:
    replace_nft(running, "text=$(printf '%s\n' \"$text\" | sed 's/rate over [0-9]*/rate over 900000000/')")
    (finding,) = told(running)["throttle"]
    assert (finding["level"], "its rate lets" in finding["text"]) == ("FAIL", True)


# packets on a real bridge


def state(host: Host) -> set[str]:
    """The state that doctor must leave unchanged: interfaces, addresses, bridges' tables and rules, a line each."""
    commands = (
        ["ip", "-o", "link"],
        ["ip", "-o", "addr"],
        ["bridge", "fdb"],
        ["sh", "-c", "nft list ruleset | sed 's/packets.*//'"],
        ["iptables-legacy-save", "-t", "filter"],
    )
    shown = "\n".join(host.run(argv, check=True).stdout for argv in commands)
    return {line for line in shown.splitlines() if line[:1] not in "#:"}


def put_back(host: Host, before: set[str]) -> None:
    """Wait until the state is as before: the kernel removes namespaces with a delay."""
    assert until(lambda: state(host) == before), sorted(state(host) ^ before)


def quiet_guests(host: Host) -> list[Guest]:
    """A guest in good standing and a blocked guest, without traffic."""
    guests = [host.start("web1"), host.start("web2")]
    host.xenbw("block", "web2")
    guests[0].ping("10.50.0.2")
    return guests


def test_on_a_real_bridge_meter_and_seal_are_proven_unnoticed_by_its_guests(running: Host) -> None:
    guests = quiet_guests(running)
    before, counters = state(running), [guest.counters() for guest in guests]
    found = told(running, "--on", BRIDGE)
    assert [one["level"] for one in found["meter"] if BRIDGE in one["text"]] == ["PASS"]
    assert [one["level"] for one in found["seal"] if BRIDGE in one["text"]] == ["PASS", "PASS"]
    assert "1 sealed interfaces stay sealed" in found["seal"][0]["text"]
    put_back(running, before)
    for guest, counted in zip(guests, counters, strict=True):
        # Only packets that an interface sends by itself now and then.
        assert guest.counters().in_bytes - counted.in_bytes < 1000
    assert running.ask("status")["meter_gaps"] == 0
    assert guests[0].reaches("10.50.0.2")
    assert not guests[1].ping("10.50.0.2")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stopped_doctor_leaves_nothing_behind(running: Host, number: signal.Signals) -> None:
    quiet_guests(running)
    before = state(running)
    assert stopped_on_bridge(running, number) == 128 + number
    put_back(running, before)


def test_the_next_doctor_removes_the_remains_of_a_killed_one(running: Host) -> None:
    quiet_guests(running)
    before = state(running)
    assert stopped_on_bridge(running, signal.SIGKILL) == -signal.SIGKILL
    assert until(lambda: "xenbw-guest" not in running.run(["ip", "-o", "link"]).stdout)
    assert doctor(running, "--on", BRIDGE).returncode == 0
    put_back(running, before)


def test_on_a_real_bridge_the_throttles_of_its_guests_stay(running: Host) -> None:
    guest = running.start("web1")
    running.add("web1", limit_bytes=LIMIT, action=Action.THROTTLE, rate=10**6)
    running.ask("sync")
    assert guest.reaches(OUTSIDE_ADDRESSES[4])
    guest.send(2 * LIMIT)
    assert until(lambda: throttles(running) != [])
    running.kill_daemon()
    before = throttles(running)
    assert doctor(running, "--on", BRIDGE).stdout
    assert throttles(running) == before


def throttles(host: Host) -> list[str]:
    """The limit objects, and the elements of the maps that lead to them, as nft prints them."""
    table = host.run(["nft", "list", "table", "netdev", "xenbw"]).stdout
    return [line.strip() for line in table.splitlines() if "limit t" in line or '"t' in line]


def argv() -> list[str]:
    return ["env", "--default-signal=INT", sys.executable, "-m", "xenbw.cli.main", "doctor", "--on", BRIDGE]


def await_seal(host: Host) -> None:
    """Wait until doctor's guest on the real bridge is sealed, which makes a counter."""
    sealed = ["sh", "-c", "nft list counters | grep -q 'v0[.]0[.].*-refused-in'"]
    assert until(lambda: host.run(sealed).returncode == 0, seconds=60), (host.directory / "doctor.log").read_text()


def stopped_on_bridge(host: Host, number: signal.Signals) -> int:
    """Start doctor, and stop it once its guest on the real bridge is sealed; its exit status."""
    process = host.popen(argv(), output=host.directory / "doctor.log", env=env(host))
    await_seal(host)
    process.send_signal(number)
    return process.wait(timeout=busy(30))


def test_a_failing_doctor_leaves_nothing_behind_and_reports_the_failure(running: Host) -> None:
    quiet_guests(running)
    before = state(running)
    (running.bin_dir / "bridge").write_text("#!/bin/sh\nexit 7\n")
    (running.bin_dir / "bridge").chmod(0o755)
    found = told(running, "--on", BRIDGE)
    (running.bin_dir / "bridge").unlink()
    assert "bridge: exit status 7" in " ".join(failures(found))
    put_back(running, before)


def test_two_doctors_at_once_do_not_remove_each_others_guests(running: Host) -> None:
    with (running.run_dir / "doctor.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        running.namespace.ip("link add xenbw-guest type veth peer name its-eth0")
        assert "another xenbw doctor" in " ".join(failures(told(running, "--on", BRIDGE)))
        assert "xenbw-guest" in running.run(["ip", "-o", "link"]).stdout
    assert failures(told(running, "--on", BRIDGE)) == []


def test_only_root_can_keep_doctor_from_a_bridge(running: Host) -> None:
    with running.namespace.entered():
        users = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with users:
        users.bind("\0xenbw-doctor")
        assert failures(told(running, "--on", BRIDGE)) == []
    lock = (running.run_dir / "doctor.lock").stat()
    assert (stat.S_IMODE(lock.st_mode), lock.st_uid) == (0o600, 0)


def test_an_interface_that_is_not_a_bridge_is_a_usage_error(host: Host) -> None:
    done = doctor(host, "--on", "../outside")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("xenbw: ../outside: no Linux bridge of this host")

"""xenbw doctor on a healthy dom0, and on a dom0 that is broken in the ways that doctor checks."""

from __future__ import annotations

import json
import shlex
from typing import Any

from tests.support.doctor import Told, doctor, failures, told
from tests.support.host import Host
from tests.support.nftprogram import replace_nft, without_limits

HOOK = "/etc/xen/scripts/vif-post.d/xenbw.hook"


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
    running.hinder_drop(guest.interface)
    for mark in (running.run_dir / "dropped").iterdir():
        mark.unlink(missing_ok=True)
    found = {one["text"].partition(":")[0]: one for one in told(running)["seal"] if one["level"] == "WARN"}
    bare, stray = f"only nft's rules seal {guest.interface}", f"xenbw's tc filter on {other.interface} has no mark"
    assert [any(text.startswith(words) for text in found) for words in (bare, stray)] == [True, True]
    (fix,) = (one for text, one in found.items() if text.startswith(stray))
    with running.held_up():
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
    replace_nft(running, "text=$(printf '%s\n' \"$text\" | sed 's/rate over [0-9]* bytes/rate over 900000000 bytes/')")
    (finding,) = told(running)["throttle"]
    assert (finding["level"], "its rate lets" in finding["text"]) == ("FAIL", True)

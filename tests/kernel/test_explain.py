"""xenbw explain, the audit and unmetered VMs, on a host with traffic."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import until
from xenbw.model import Counters

pytestmark = pytest.mark.kernel


def explained(host: Host, *words: str) -> dict[str, Any]:
    """`xenbw explain web1 --json`."""
    document: dict[str, Any] = json.loads(host.xenbw("explain", "web1", "--json", *words).stdout)
    return document


def sums(document: dict[str, Any]) -> Counters:
    """The sums of the explanation's parts."""
    return Counters(*(sum(part[key] for part in document["parts"]) for key in ("in_bytes", "out_bytes")))


def weighed(host: Host, guest: Guest, sent: int) -> Counters:
    """Some traffic, and then the bytes of the guest's present life."""
    guest.send(sent)
    guest.receive(sent)
    host.quiet(guest)
    assert guest.scales is not None
    return guest.scales.total()


def test_after_reboots_each_life_has_its_bytes_and_they_sum_to_the_usage(running: Host) -> None:
    guest = running.start("web1")
    guest.weighed = True
    passed = []
    for number in range(3):
        guest.reboot()
        passed.append(weighed(running, guest, 20_000 + number))
    assert until(lambda: _lives(explained(running))[1:] == passed), (explained(running), passed)
    document = explained(running)
    assert sums(document) == running.usage("web1")
    assert [part["end_reason"] is None for part in document["parts"]] == [False, False, False, True]
    assert {(part["meter"], part["reason"]) for part in document["parts"]} == {("nft", None)}
    assert document["gaps"] == []


def _lives(document: dict[str, Any]) -> list[Counters]:
    return [Counters(part["in_bytes"], part["out_bytes"]) for part in document["parts"]]


def test_a_flush_of_the_rules_is_reported_as_a_gap_and_leaves_no_byte_unexplained(running: Host) -> None:
    guest = running.start("web1")
    guest.send(50_000)
    # A round or two without traffic, in which the kernel's counters are compared with ours.
    time.sleep(2.2)
    running.run(["nft", "flush", "ruleset"], check=True)
    assert until(lambda: running.ask("status")["meter_gaps"] == 1)
    guest.send(50_000)
    running.quiet(guest)
    running.ask("commit")
    document = explained(running)
    assert [gap["text"].startswith("the kernel's counters bridged a gap") for gap in document["gaps"]] == [True]
    assert len(document["parts"]) == 1
    assert sums(document) == running.usage("web1")


def test_the_audit_finds_no_difference_between_our_counters_and_the_kernels(running: Host) -> None:
    guest = running.start("web1")
    guest.receive(100_000)
    guest.send(50_000)
    audit = explained(running, "--audit")["audit"]
    (one,) = audit["interfaces"]
    assert (audit["stale"], one["kernel"]["drift_in_bytes"], one["xentop"]) == (None, 0, None)
    # veth, unlike netback, counts the Ethernet headers of frames from the guest.
    assert one["kernel"]["drift_out_bytes"] % 14 == 0
    assert audit["no_xentop"]


# VMs that are not metered


# Seconds. A domain may be without a vif for 20 while it is being built.
_SURVEYS = 60.0


def test_a_running_vm_without_a_vif_here_is_unmetered_and_can_be_blocked(host: Host) -> None:
    backend = "/local/domain/5/backend/vif/31/0"
    host.store.write_all({"/local/domain/5/name": "netdrv", "/local/domain/30/name": "novif"})
    host.store.write_all({"/local/domain/31/name": "faraway", "/libxl/31/device/vif/0/backend": backend})
    guest = host.start("web1")
    host.store.write_all({f"/libxl/{guest.domid}/device/vif/1/backend": backend})
    host.start_daemon()
    assert until(lambda: listed_after_a_poke(host).keys() == {"netdrv", "novif", "faraway", "web1"}, _SURVEYS)
    found = listed(host)
    assert {name: vm["state"] for name, vm in found.items()} == {
        "netdrv": "unmetered",
        "novif": "unmetered",
        "faraway": "unmetered",
        "web1": "unlimited",
    }
    assert found["faraway"]["reason"] == "its vif 0 is in driver domain 5 (netdrv), not in this dom0"
    assert "its vif 1 is in driver domain 5 (netdrv), and only what passes" in found["web1"]["reason"]
    host.xenbw("block", "novif", "--reason", "abuse", check=False)
    assert listed(host)["novif"]["state"] == "blocked"


def listed(host: Host) -> dict[str, dict[str, Any]]:
    """`xenbw list --json`, by name."""
    return {vm["name"]: vm for vm in json.loads(host.xenbw("list", "--json").stdout)["vms"]}


def listed_after_a_poke(host: Host) -> dict[str, dict[str, Any]]:
    """`xenbw list --json` after a poke. Pokes make the daemon survey xenstore, but only once in ten seconds."""
    host.ask("sync")
    return listed(host)


def test_a_vm_that_started_without_a_vif_is_found_when_a_hook_or_the_command_line_pokes(running: Host) -> None:
    running.store.write_all({"/local/domain/30/name": "novif"})
    assert until(lambda: listed_after_a_poke(running).get("novif", {}).get("state") == "unmetered", _SURVEYS)

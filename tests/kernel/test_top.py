"""xenbw top beside real traffic: the rates are those of the traffic, with and without the daemon."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.dom0 import OUTSIDE_ADDRESSES
from tests.support.flow import Flow
from tests.support.guest import Guest
from tests.support.host import Host

pytestmark = pytest.mark.kernel

_FACTOR = 2.5  # the flow has no steady pace on a busy machine
_HEADERS = 20 + 8, 14 + 20 + 8 + 18  # bytes of a small frame: IP and UDP at least, Ethernet and its padding at most


def top(host: Host) -> dict[str, Any]:
    """`xenbw top --once --json`."""
    document: dict[str, Any] = json.loads(host.xenbw("top", "--once", "--json").stdout)
    return document


def beside(host: Host, flow: Callable[[], Flow], key: str) -> dict[str, Any]:
    """What top shows of its only VM while datagrams flow. key: what is near the pace at which they are sent."""
    for _ in range(5):
        with flow() as flowing:
            time.sleep(0.2)
            begin, before = time.monotonic(), flowing.sent()
            found = top(host)
            pace = (flowing.sent() - before) / (time.monotonic() - begin)
        (vm,) = found["vms"]
        # On a busy machine the pace in top's second may be another than before and after it.
        if pace / _FACTOR < vm[key] < pace * _FACTOR:
            return vm
    raise AssertionError((vm, pace))


def outward(host: Host, guest: Guest) -> Flow:
    return Flow(guest.namespace, host.outside, OUTSIDE_ADDRESSES[4])


def test_a_vm_s_rates_are_those_of_its_traffic_with_and_without_the_daemon(running: Host) -> None:
    guest = running.start("web1")
    assert guest.reaches(OUTSIDE_ADDRESSES[4])
    for _ in range(2):
        sent = beside(running, lambda: outward(running, guest), "out_packets")
        assert (sent["name"], sent["state"]) == ("web1", "unlimited")
        assert _HEADERS[0] <= sent["out_bits"] / 8 / sent["out_packets"] <= _HEADERS[1]
        assert sent["in_packets"] < sent["out_packets"] / 4
        received = beside(running, lambda: Flow(running.outside, guest.namespace, guest.address()), "in_packets")
        (vif,) = received["vifs"]
        assert (vif["interface"], vif["in_bits"]) == (guest.interface, received["in_bits"])
        assert received["refused_in_bits"] == received["refused_out_bits"] == 0
        if running.daemon is not None and running.daemon.poll() is None:
            running.kill_daemon()


def test_what_a_block_refuses_is_shown_as_refused_and_not_as_passed(running: Host) -> None:
    guest = running.start("web1")
    assert guest.reaches(OUTSIDE_ADDRESSES[4])
    running.xenbw("addvm", "web1", "--limit", "1TB")
    running.xenbw("block", "web1")
    assert running.drops(guest.interface)
    vm = beside(running, lambda: outward(running, guest), "refused_out_packets")
    assert vm["state"] == "blocked"
    assert vm["out_packets"] == 0
    # Without tc's drop the seal in nft refuses it.
    running.kill_daemon()
    running.raise_links(guest)
    vm = beside(running, lambda: outward(running, guest), "refused_out_packets")
    assert vm["out_packets"] == 0
    shown = running.xenbw("top", "--once").stdout.splitlines()
    assert shown[1].split()[:2] == ["web1", "blocked"]


def test_where_the_kernel_s_counters_are_the_meter_top_reads_them_too(host: Host) -> None:
    host.configure('[meter]\nsource = "kernel"\n')
    host.start_daemon()
    guest = host.start("web1")
    assert guest.reaches(OUTSIDE_ADDRESSES[4])
    beside(host, lambda: outward(host, guest), "out_packets")
    assert top(host)["meter"] == "kernel"


def test_without_a_ledger_the_vifs_have_their_rates_and_a_note_says_why_no_names(running: Host) -> None:
    guest = running.start("web1")
    assert guest.reaches(OUTSIDE_ADDRESSES[4])
    running.kill_daemon()
    running.ledger_path.rename(running.state / "away")
    vm = beside(running, lambda: outward(running, guest), "out_packets")
    assert (vm["name"], vm["vifs"][0]["interface"]) == (None, guest.interface)
    done = running.xenbw("top", "--once")
    assert "there is no ledger yet" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "(VM not known)" in done.stdout

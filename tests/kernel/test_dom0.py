"""The miniature dom0 behaves like a real one: Debian's vif scripts, hooks and traffic; it leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dom0 import Dom0
from tests.support.guest import ETH_HLEN, Guest, ScriptError
from tests.support.netns import Namespace
from tests.support.pace import busy, until
from xenbw.model import Counters

pytestmark = pytest.mark.kernel

DUMP = """#!/bin/bash
name=$(xenstore-read "/local/domain/$(xenstore-read "$XENBUS_PATH/frontend-id")/name")
echo "$command|$type_if|$XENBUS_PATH|$vif|$dev|$bridge|$ip|$name|$(echo /sys/class/net/vif*)" >>"$DUMP"
"""


@pytest.fixture
def dom0() -> Iterator[Dom0]:
    with Dom0() as machine:
        yield machine


def hook(directory: Path, name: str, text: str) -> Path:
    path = directory / name
    path.write_text(text)
    return path


def backend(dom0: Dom0, guest: Guest, key: str) -> str | None:
    return dom0.store.read(f"/local/domain/0/backend/vif/{guest.domid}/0/{key}")


def interfaces(dom0: Dom0) -> list[str]:
    return dom0.run(["ls", "/sys/class/net"]).stdout.split()


def inodes(*places: Namespace) -> set[int]:
    """The numbers of these namespaces. They stay open while this process runs, so no other gets their numbers."""
    return {os.fstat(os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)).st_ino for place in places}


def namespaces_in_use() -> set[int]:
    """The numbers of the network namespaces in which a process runs."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add((process / "ns/net").stat().st_ino)
        except OSError:
            continue
    return found


def test_vif_bridge_makes_the_vif_a_bridge_port_and_reports_connected(dom0: Dom0) -> None:
    guest = dom0.start("web1")
    ports = dom0.run(["ls", "/sys/class/net/xenbr0/brif"]).stdout.split()
    assert ports == ["outside", "vif1.0"]
    assert backend(dom0, guest, "hotplug-status") == "connected"
    assert [(run.command, run.returncode) for run in guest.scripts] == [("online", 0)]


def test_a_guest_reaches_dom0_an_outside_host_and_other_guests(dom0: Dom0) -> None:
    web1, web2 = dom0.start("web1"), dom0.start("web2")
    assert web1.reaches("10.50.0.1")
    assert web1.reaches("10.50.0.2")
    assert web1.reaches(web2.address())
    assert not web1.ping("10.50.0.99", timeout=0.1)


def test_ipv6_works_at_once(dom0: Dom0) -> None:
    web1 = dom0.start("web1", ("10.50.0.11", "fd50::11"))
    web2 = dom0.start("web2", ("10.50.0.12", "fd50::12"))
    assert web1.reaches("fd50::1")
    assert web1.reaches("fd50::2")
    assert web1.reaches(web2.address(version=6))
    assert web1.send(5000, version=6) == web1.receive(5000, web2, version=6) == 5000


@pytest.mark.parametrize(("script", "ip"), [("vif-route", "10.51.0.11"), ("vif-nat", "10.52.0.11")])
def test_a_routed_guest_reaches_dom0_and_an_outside_host(dom0: Dom0, script: str, ip: str) -> None:
    guest = dom0.start("web1", (ip,), script=script)
    assert backend(dom0, guest, "hotplug-status") == "connected"
    assert guest.reaches("10.50.0.1")
    assert guest.reaches("10.50.0.2")
    assert guest.send(5000) == guest.receive(5000) == 5000
    guest.stop()
    assert [(run.command, run.returncode) for run in guest.scripts] == [("online", 0), ("offline", 0)]


def counters_of(dom0: Dom0, interface: str) -> Counters:
    """A vif's counters, in the guest's directions."""
    fields = next(line for line in dom0.run(["cat", "/proc/net/dev"]).stdout.splitlines() if interface in line)
    received, packets, sent = (int(fields.split()[n]) for n in (1, 2, 9))
    return Counters(in_bytes=sent, out_bytes=received - ETH_HLEN * packets)


def test_the_guests_counters_equal_its_vifs(dom0: Dom0) -> None:
    guest = dom0.start("web1")
    before = guest.counters()
    assert guest.send(1_000_000) == 1_000_000
    assert guest.receive(2_000_000) == 2_000_000
    # The two are read one after the other, and packets may pass in between.
    assert until(lambda: guest.counters() == counters_of(dom0, "vif1.0"))
    after = guest.counters()
    # 1400-byte datagrams have 42 bytes of headers each, of which 14 do not count on the way out; ARP comes on top.
    assert 1_020_000 <= after.out_bytes - before.out_bytes <= 1_021_000
    assert 2_060_000 <= after.in_bytes - before.in_bytes <= 2_061_000


def test_blocked_packets_are_sent_and_do_not_arrive(dom0: Dom0) -> None:
    guest = dom0.start("web1")
    for namespace in (dom0.outside, guest.namespace):
        namespace.run(["iptables", "-A", "INPUT", "-p", "udp", "-j", "DROP"], check=True)
    before = guest.counters()
    assert guest.send(100_000, timeout=0.1) == guest.receive(100_000, timeout=0.1) == 0
    after = guest.counters()
    assert after.out_bytes - before.out_bytes > 100_000
    assert after.in_bytes - before.in_bytes > 100_000


def test_guests_exchange_known_amounts_with_each_other_and_with_dom0(dom0: Dom0) -> None:
    web1, web2 = dom0.start("web1"), dom0.start("web2")
    assert web1.send(50_000, to=web2) == web1.receive(50_000, web2) == 50_000
    assert web1.send(50_000, to="dom0") == web1.receive(50_000, "dom0") == 50_000


def test_a_hook_is_sourced_with_the_variables_of_a_real_dom0(tmp_path: Path) -> None:
    with Dom0(hooks=[hook(tmp_path, "dump.hook", DUMP)]) as dom0:
        dom0.hook_env["DUMP"] = str(tmp_path / "calls")
        guest = dom0.start("web1", ("10.50.0.11", "10.50.0.111"))
        guest.stop()
        dom0.start("web2", vifname="front0")
    assert (tmp_path / "calls").read_text().splitlines() == [
        "online|vif|backend/vif/1/0|vif1.0|vif1.0|xenbr0|10.50.0.11 10.50.0.111|web1|/sys/class/net/vif1.0",
        # As on a real dom0, the interface is gone before the script runs, but its name is still passed.
        "offline|vif|backend/vif/1/0|vif1.0|vif1.0|xenbr0|10.50.0.11 10.50.0.111|web1|/sys/class/net/vif*",
        "online|vif|backend/vif/2/0|vif2.0|front0|xenbr0|10.50.0.12|web2|/sys/class/net/vif*",
    ]


def test_hooks_are_installed_for_this_dom0_only(tmp_path: Path) -> None:
    before = sorted(os.listdir("/etc/xen/scripts"))
    with Dom0(hooks=[hook(tmp_path, "dump.hook", DUMP)]) as dom0:
        assert dom0.run(["ls", "/etc/xen/scripts/vif-post.d"]).stdout == "dump.hook\n"
        assert sorted(os.listdir("/etc/xen/scripts")) == before


def test_a_failing_hook_fails_the_start_and_leaves_nothing_of_the_guest(tmp_path: Path) -> None:
    with Dom0(hooks=[hook(tmp_path, "bad.hook", "false\n")]) as dom0:
        with pytest.raises(ScriptError) as failed:
            dom0.start("web1", vifname="front0")
        assert [run.returncode for run in failed.value.results] == [1]
        assert interfaces(dom0) == ["lo", "outside", "xenbr0"]
        assert dom0.store.read("/local/domain/1/name") is None
        assert dom0.store.list("/vm") == dom0.store.list("/local/domain/0/backend/vif") == []


def test_a_reboot_keeps_mac_address_and_uuid_and_raises_the_domid(dom0: Dom0) -> None:
    guest = dom0.start("web1", mac="00:16:3e:aa:bb:cc")
    uuid = dom0.store.read("/local/domain/1/vm")
    guest.reboot()
    assert guest.domid == 2
    assert backend(dom0, guest, "mac") == "00:16:3e:aa:bb:cc"
    assert dom0.store.read("/local/domain/2/vm") == uuid
    assert guest.reaches("10.50.0.2")
    assert interfaces(dom0) == ["lo", "outside", "vif2.0", "xenbr0"]


@pytest.mark.parametrize("end", [Guest.stop, Guest.destroy])
def test_a_stopped_guest_leaves_no_interface_and_no_xenstore_entry(dom0: Dom0, end: object) -> None:
    guest = dom0.start("web1", vifs=2, ips=("10.50.0.11", "10.50.0.12"))
    assert callable(end)
    end(guest)
    assert interfaces(dom0) == ["lo", "outside", "xenbr0"]
    assert dom0.store.list("/local/domain") == ["0"]
    assert dom0.store.list("/vm") == dom0.store.list("/local/domain/0/backend/vif") == []
    assert not guest.running


def test_a_guest_can_be_given_a_domid_and_the_next_is_larger(dom0: Dom0) -> None:
    assert dom0.start("web1", domid=40).interface == "vif40.0"
    assert dom0.start("web2").interface == "vif41.0"


def test_every_vif_of_a_guest_has_its_own_interface_and_addresses(dom0: Dom0) -> None:
    guest = dom0.start("web1", ("10.50.0.11", "10.50.0.12"), vifs=2)
    assert guest.interfaces == {0: "vif1.0", 1: "vif1.1"}
    assert dom0.store.read("/local/domain/0/backend/vif/1/0/ip") == "10.50.0.11"
    assert dom0.store.read("/local/domain/0/backend/vif/1/1/ip") == "10.50.0.12"


def test_a_config_need_not_list_the_guests_addresses(dom0: Dom0) -> None:
    guest = dom0.start("web1", config_ips=())
    assert backend(dom0, guest, "ip") is None
    assert guest.reaches("10.50.0.1")


def test_a_vif_can_be_renamed_while_its_guest_runs(dom0: Dom0) -> None:
    guest = dom0.start("web1")
    guest.rename_vif("front0")
    assert guest.interface == "front0"
    assert guest.reaches("10.50.0.2")
    guest.stop()
    assert interfaces(dom0) == ["lo", "outside", "xenbr0"]


def test_xl_lists_the_running_guests_as_xl_does(dom0: Dom0) -> None:
    dom0.start("web1").stop()
    dom0.start("sp ace:col", vifname="front0")
    assert dom0.run(["xl", "list"]).stdout.splitlines() == [
        "Name                                        ID   Mem VCPUs\tState\tTime(s)",
        "Domain-0                                     0  1536     1     -b----       0.0",
        "sp ace:col                                   2   128     1     -b----       0.0",
    ]
    assert dom0.run(["xl", "create", "web1"]).returncode == 1


def test_the_xenstore_tools_find_the_store_at_its_usual_place(dom0: Dom0) -> None:
    guest = dom0.start("web1")
    argv = ["env", "-u", "XENSTORED_PATH", "xenstore-read", f"/local/domain/{guest.domid}/name"]
    assert dom0.run(argv).stdout == "web1\n"


def test_dom0_has_its_own_sysfs_interfaces_and_run_folder(dom0: Dom0, tmp_path: Path) -> None:
    dom0.run(["touch", "/run/mark"], check=True)
    assert dom0.run(["ls", "/run"]).stdout.split() == ["mark", "xenstored"]
    assert not Path("/run/mark").exists()
    assert interfaces(dom0) == ["lo", "outside", "xenbr0"]


def test_nothing_is_left_of_a_closed_dom0_nor_of_its_daemons(tmp_path: Path) -> None:
    with Dom0() as dom0:
        guest = dom0.start("web1")
        daemon = dom0.popen(["sleep", "600"], output=tmp_path / "log")
        stray = dom0.run(["sh", "-c", "sleep 600 >/dev/null 2>&1 & echo $!"]).stdout.strip()
        numbers = inodes(dom0.namespace, dom0.outside, guest.namespace)
        directory = dom0.directory
    assert daemon.returncode == -9
    deadline = time.monotonic() + busy(2)
    while Path(f"/proc/{stray}/exe").exists():
        assert time.monotonic() < deadline, "a process outlived its dom0"
        time.sleep(0.01)
    assert not numbers & namespaces_in_use()
    assert not directory.exists()
    assert subprocess.run(["ip", "netns", "list"], capture_output=True, check=True).stdout == b""


def test_nothing_is_left_of_a_dom0_whose_test_failed() -> None:
    with pytest.raises(ZeroDivisionError), Dom0() as dom0:
        directory, numbers = dom0.directory, inodes(dom0.namespace)
        dom0.start("web1")
        raise ZeroDivisionError
    assert not directory.exists()
    assert not numbers & namespaces_in_use()


def test_two_dom0s_do_not_see_each_other() -> None:
    with Dom0() as one, Dom0() as other:
        one.start("web1")
        guest = other.start("web1")
        one.guests[0].stop()
        assert guest.reaches("10.50.0.2")
        assert interfaces(other) == ["lo", "outside", "vif1.0", "xenbr0"]

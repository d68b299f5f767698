"""A guest that used another MAC is reached by it as long as others remember it, whatever became of its vif."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.frames import arp_reply, frame, send_frames
from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import until
from xenbw.ledger import aliases, bindings

pytestmark = pytest.mark.kernel

ALIAS = "00:16:3e:99:99:99"
ROUTER = "02:00:00:00:00:01"
LOAD = bytes(1000)


@pytest.fixture
def guest(host: Host) -> Guest:
    """A VM in good standing beside a neighbour."""
    host.start_daemon()
    host.start("db1")
    guest = host.start("web1")
    guest.ping("10.50.0.2")
    return guest


def tell(guest: Guest) -> None:
    """Tell the router of another MAC, from the guest's own."""
    send_frames(guest.namespace, "eth0", [arp_reply(guest.cards[0].mac, ALIAS, "10.50.0.77", ROUTER, "10.50.0.2")])


def remembered(host: Host) -> bool:
    """Whether the ledger knows a VM that used another MAC, and the over file names it."""
    known = host.ledger().meta(bindings.ALIASED)
    return bool(known) and "aliased\tweb1\t" in (host.run_dir / "over").read_text()


def flooded(host: Host, name: str = "web1") -> int:
    """How many bytes of frames for the other MAC were flood, on all vifs that the VM has now."""
    before = _flood(host, name)
    send_frames(host.outside, "eth0", [frame(ALIAS, ROUTER, LOAD, 0x88B5)] * 100)
    time.sleep(0.3)
    return _flood(host, name) - before


def _flood(host: Host, name: str) -> int:
    host.ask("commit")
    ledger = host.ledger()
    ids = {vm_id for vm_id, vm in ledger.vms().items() if vm.name == name}
    return sum(one.counted.flood_bytes for one in ledger.live_bindings().values() if one.vm_id in ids)


def test_after_a_reboot(host: Host, guest: Guest) -> None:
    tell(guest)
    guest.reboot()
    assert until(lambda: remembered(host))
    assert "it used another MAC than Xen gave it" in host.xenbw("explain", "web1").stdout
    assert flooded(host) == 0
    assert flooded(host, "db1") >= 100 * 1014


def test_after_a_reboot_without_a_daemon(host: Host, guest: Guest) -> None:
    tell(guest)
    assert until(lambda: remembered(host))
    host.kill_daemon()
    guest.reboot()
    send_frames(host.outside, "eth0", [frame(ALIAS, ROUTER, LOAD, 0x88B5)] * 100)
    host.start_daemon()
    assert _flood(host, "web1") == 0
    assert flooded(host) == 0


def test_told_in_a_life_that_ended_before_the_daemon_looked(host: Host, guest: Guest) -> None:
    host.kill_daemon()
    tell(guest)
    guest.reboot()
    host.start_daemon()
    assert until(lambda: remembered(host))
    host.ask("commit")
    assert flooded(host) == 0


def test_after_a_boot_of_dom0_without_a_daemon(host: Host, guest: Guest) -> None:
    tell(guest)
    assert until(lambda: remembered(host))
    host.kill_daemon()
    guest.destroy()
    (host.run_dir / "over").unlink()
    host.run(["nft", "flush", "ruleset"], check=True)
    guest.start()
    send_frames(host.outside, "eth0", [frame(ALIAS, ROUTER, LOAD, 0x88B5)] * 100)
    host.start_daemon()
    assert _flood(host, "web1") == 0


def test_after_a_flush_of_the_rules(host: Host, guest: Guest) -> None:
    tell(guest)
    assert until(lambda: remembered(host))
    host.run(["nft", "flush", "ruleset"], check=True)
    assert until(lambda: "jump" in host.run(["nft", "list", "table", "netdev", "xenbw"]).stdout)
    host.ask("commit")
    assert flooded(host) == 0


def test_on_another_vif_of_the_vm(host: Host, guest: Guest) -> None:
    guest.finish(guest.attach("10.50.0.78"))
    assert until(lambda: len(host.ledger().live_bindings()) == 3)
    assert flooded(host) >= 2 * 100 * 1014
    tell(guest)
    assert until(lambda: remembered(host))
    assert until(lambda: flooded(host) == 0)


def test_until_others_have_forgotten_it(host: Host, guest: Guest) -> None:
    tell(guest)
    assert until(lambda: remembered(host))
    host.kill_daemon()
    guest.destroy()
    # A day has passed: nothing but the ledger knows of it, and the ledger says until when.
    host.run(["nft", "delete", "table", "netdev", "xenbw"], check=True)
    ledger = host.ledger()
    (vm_id,) = aliases.known(ledger, datetime.now(UTC))
    aliases.keep(ledger, {vm_id: datetime.now(UTC) + timedelta(seconds=1)})
    time.sleep(1.1)
    host.start_daemon()
    guest.start()
    guest.ping("10.50.0.2")
    assert flooded(host) >= 100 * 1014


def test_on_a_vif_that_the_kernel_forgot_before_its_vm(host: Host, guest: Guest) -> None:
    tell(guest)
    assert until(lambda: remembered(host))
    aliased = ["nft", "delete", "element", "netdev", "xenbw", "aliased"]
    ifindex = host.run(["cat", f"/sys/class/net/{guest.interface}/ifindex"]).stdout
    host.run([*aliased, "{", ifindex.strip(), "}"], check=True)
    assert until(lambda: flooded(host) == 0)

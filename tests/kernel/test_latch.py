"""A vif attached to a blocked guest without a daemon is latched from its first frame, before its script's hook.

netback connects as soon as the guest's frontend does (linux drivers/net/xen-netback/xenbus.c), vif-bridge makes the vif
a port of the bridge, vif-route sets it up, and both call their hooks last.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sqlite3
from collections.abc import Iterator

import pytest

from tests.support import story
from tests.support.ears import Ear
from tests.support.frames import BROADCAST, frame, mac_bytes
from tests.support.guest import Card
from tests.support.host import Host
from tests.support.intruder import Intruder
from tests.support.latch import KINDS, attach, everywhere, hand_in_dom0, latched, overdrawn, talk
from tests.support.pace import at_last, until
from tests.support.packets import ip4, udp
from xenbw.blocks import latch_text
from xenbw.nft.nft import TABLE

pytestmark = pytest.mark.kernel


@pytest.fixture
def host() -> Iterator[Host]:
    """A host whose bridge iptables does not see, with db1 on the bridge."""
    with story.plain_bridge() as machine:
        yield machine


def group_of(host: Host, interface: str) -> int:
    return int(host.run(["cat", f"/sys/class/net/{interface}/netdev_group"], check=True).stdout)


def marked(host: Host) -> set[str] | None:
    """The domains that have a latch mark; None without the folder of marks."""
    folder = host.run_dir / "latched"
    return {mark.name for mark in folder.iterdir()} if folder.exists() else None


def test_with_the_daemon_dead_no_frame_passes_an_attached_vif(host: Host) -> None:
    guest = overdrawn(host)
    with Intruder(host, guest, host.guests[0]) as me:
        host.kill_daemon()
        card = attach(host, guest)
        me.reached()
        talk(me, card)
        assert me.reached() == {}
        guest.finish(card)
        host.raise_links(guest)
        talk(me, card)
        assert me.reached() == {}


def test_no_frame_passes_an_attached_vif_that_has_a_vifname(host: Host) -> None:
    guest = overdrawn(host)
    with Intruder(host, guest, host.guests[0]) as me:
        host.kill_daemon()
        card = attach(host, guest, "itsown")
        talk(me, card)
        assert me.reached() == {}
        host.xenbw("lift", "web1")
        talk(me, card)
        assert me.reached().keys() == {"outside", "neighbour", "dom0"}
    assert group_of(host, "itsown") == 0
    assert marked(host) is None


def test_the_daemon_takes_the_vifs_of_a_lifted_vm_out_of_their_group(host: Host) -> None:
    guest = overdrawn(host)
    attach(host, guest, "itsown")
    assert group_of(host, "itsown") == latch_text.group(guest.domid)
    host.xenbw("lift", "web1")
    assert (group_of(host, "itsown"), marked(host)) == (0, None)


def test_an_admins_interface_groups_stay(host: Host) -> None:
    guest = overdrawn(host)
    host.namespace.ip(f"link set {host.guests[0].interface} group 42", f"link set {guest.interface} group 43")
    host.xenbw("lift", "web1")
    assert (group_of(host, host.guests[0].interface), group_of(host, guest.interface)) == (42, 43)


def test_latched_domains_have_a_mark_for_udev(host: Host) -> None:
    guest = overdrawn(host)
    assert marked(host) == {str(guest.domid)}
    host.kill_daemon()
    shutil.rmtree(host.run_dir / "latched")
    guest.reboot()
    assert marked(host) == {str(guest.domid)}
    domid = guest.domid
    guest.destroy()
    host.start("web2", domid=domid)
    assert marked(host) is None


def test_a_mark_for_udev_that_cannot_be_written_is_a_problem_and_the_latch_holds(host: Host) -> None:
    (host.run_dir / "latched").write_text("in the way")
    guest = overdrawn(host)
    (problem,) = json.loads(host.xenbw("status", "--json", check=False).stdout)["daemon"]["problems"]
    late = "without xenbwd, hot-plugged vifs of blocked VMs that have a vifname= pass traffic until the hook runs"
    assert problem == f"{late}: {host.run_dir / 'latched'}: Not a directory"
    host.kill_daemon()
    with Intruder(host, guest, host.guests[0]) as me:
        talk(me, attach(host, guest))
        assert me.reached() == {}


def test_frames_pass_an_attached_vif_as_soon_as_its_vm_is_lifted(host: Host) -> None:
    guest = overdrawn(host)
    with Intruder(host, guest, host.guests[0]) as me:
        host.kill_daemon()
        host.xenbw("lift", "web1")
        assert latched(host) == {}
        card = attach(host, guest)
        talk(me, card)
        assert me.reached().keys() == {"outside", "neighbour", "dom0"}


def test_a_blocked_guest_that_starts_while_no_daemon_runs_is_latched_by_its_hook(host: Host) -> None:
    guest = overdrawn(host)
    host.kill_daemon()
    host.run(["nft", "flush", "ruleset"], check=True)
    guest.reboot()
    assert latched(host) == everywhere(guest.domid)
    with Intruder(host, guest, host.guests[0]) as me:
        card = attach(host, guest)
        talk(me, card)
        assert me.reached() == {}


def test_a_blocked_domain_without_any_vif_stays_latched(host: Host) -> None:
    guest = overdrawn(host)
    host.namespace.ip(f"link del {guest.interface}")
    guest.scripts.append(host.run_script("offline", guest.domid, guest.cards[0]))
    host.ask("sync")
    assert at_last(lambda: latched(host), everywhere(guest.domid)) == everywhere(guest.domid)


def test_an_attached_routed_vif_reaches_neither_dom0_nor_an_outside_host(host: Host) -> None:
    guest = overdrawn(host, ips=("10.51.0.11",), script="vif-route")
    host.kill_daemon()
    card = guest.attach("10.51.0.77")
    interface = guest.interfaces[card.devid]
    host.namespace.ip(f"link set {interface} up", f"route add 10.51.0.77 dev {interface}")
    assert until(lambda: "LOWER_UP" in host.run(["ip", "link", "show", interface]).stdout)
    with Intruder(host, guest, host.guests[0]) as me, Ear(guest.namespace, f"eth{card.devid}") as answers:
        gateway = host.run(["cat", f"/sys/class/net/{interface}/address"]).stdout.strip()
        datagram = ip4("10.51.0.77", me.addresses["outside"], udp(me.mark))
        frames = [frame(gateway, card.mac, datagram, 0x0800), frame(BROADCAST, card.mac, request(card), 0x0806)]
        me.send(frames, f"eth{card.devid}")
        assert ("outside" not in me.reached(), replies(answers)) == (True, 0)
        # Without the latch the same frames pass.
        assert hand_in_dom0(host, latch_text.remove())
        me.send(frames, f"eth{card.devid}")
        assert until(lambda: "outside" in me.reached())
        assert until(lambda: replies(answers) > 0)


def request(card: Card) -> bytes:
    """An ARP request for dom0's address."""
    body = mac_bytes(card.mac) + socket.inet_aton("10.51.0.77") + bytes(6) + socket.inet_aton("10.50.0.1")
    return bytes.fromhex("0001080006040001") + body


def replies(ear: Ear) -> int:
    """How many ARP replies have arrived since the last call."""
    return sum(one.frame[12:14] == b"\x08\x06" and one.frame[21] == 2 for one in ear.heard())


def test_the_emulated_card_of_a_blocked_hvm_guest_is_latched(host: Host) -> None:
    guest = overdrawn(host)
    host.kill_daemon()
    host.namespace.ip(
        f"link add vif{guest.domid}.1-emu type veth peer name emulated netns {guest.namespace.path}",
        f"link set vif{guest.domid}.1-emu master xenbr0 up",
    )
    guest.namespace.ip("link set emulated up")
    assert until(lambda: host.run(["cat", f"/sys/class/net/vif{guest.domid}.1-emu/brport/state"]).stdout == "3\n")
    with Intruder(host, guest, host.guests[0]) as me:
        me.send([me.frame(me.mark + bytes(60), kind, to="everybody") for kind in KINDS], "emulated")
        assert me.reached() == {}


def test_only_allowed_networks_are_reached_through_an_attached_vif() -> None:
    with Host("[enforce]\ninterval = 1\nallow = ['10.50.0.2', 'fd50::2']\n") as host:
        host.start_daemon()
        guest = overdrawn(host)
        host.kill_daemon()
        card = attach(host, guest)
        guest.namespace.ip(
            f"addr add fd50::77/64 dev eth{card.devid} nodad",
            *(f"route replace {to} dev eth{card.devid}" for to in ("10.50.0.2", "10.50.0.1", "fd50::2", "fd50::1")),
        )
        assert until(lambda: guest.ping("10.50.0.2") and guest.ping("fd50::2"))
        assert not guest.ping("10.50.0.1")
        assert not guest.ping("fd50::1")


def test_only_the_newest_domain_of_a_blocked_vm_is_latched(host: Host) -> None:
    guest = overdrawn(host)
    host.start("web2")
    assert at_last(lambda: latched(host), everywhere(guest.domid)) == everywhere(guest.domid)
    guest.reboot()
    assert at_last(lambda: latched(host), everywhere(guest.domid)) == everywhere(guest.domid)
    host.xenbw("block", "db1")
    both = everywhere(guest.domid, host.guests[0].domid)
    assert latched(host) == both
    host.xenbw("lift", "web1")
    assert latched(host) == everywhere(host.guests[0].domid)


def test_no_table_of_the_latch_is_left_when_no_vm_is_blocked(host: Host) -> None:
    overdrawn(host)
    assert at_last(lambda: len(latched(host)), 3) == 3
    host.xenbw("lift", "web1")
    tables = json.loads(host.run(["nft", "-j", "list", "tables"], check=True).stdout)["nftables"]
    assert [entry["table"]["family"] for entry in tables if "table" in entry] == ["netdev"]


def test_a_vm_that_is_blocked_again_is_latched_again(host: Host) -> None:
    guest = host.guests[0]
    for _ in range(3):
        host.xenbw("block", "db1")
        assert latched(host) == everywhere(guest.domid)
        assert json.loads(host.xenbw("status", "--json", check=False).stdout)["daemon"]["problems"] == []
        host.xenbw("lift", "db1")
        assert latched(host) == {}


@pytest.mark.parametrize(
    "harm",
    [
        "flush ruleset",
        "delete table bridge xenbw",
        "flush chain inet xenbw prerouting",
        "insert rule bridge xenbw prerouting accept",
        "flush set arp xenbw latched",
        "flush set bridge xenbw groups",
        "add element bridge xenbw groups { 42 }",
        "add element bridge xenbw misnamed { 42 }",
        'add element bridge xenbw latched { "vif99.*" . ether }',
        'add element inet xenbw latched { "vif*" . ether }',
        'add element arp xenbw latched { "vif98.*" . loopback }',
        "delete table arp xenbw; add table arp xenbw; add set arp xenbw latched { type ifname; }",
    ],
)
def test_the_latch_is_repaired_after_another_program_changes_it(host: Host, harm: str) -> None:
    guest = overdrawn(host)
    assert at_last(lambda: latched(host), everywhere(guest.domid)) == everywhere(guest.domid)
    before = rules(host)
    host.run(["nft", harm], check=True)
    assert at_last(lambda: (latched(host), rules(host)), (everywhere(guest.domid), before))[1] == before


def rules(host: Host) -> list[str]:
    return [
        line.strip()
        for family in latch_text.FAMILIES
        for line in host.run(["nft", "-s", "list", "table", family, TABLE]).stdout.splitlines()
    ]


def test_a_latch_that_a_saved_ruleset_restored_is_removed(host: Host) -> None:
    host.kill_daemon()
    assert hand_in_dom0(host, latch_text.foundation([]) + latch_text.latch([host.guests[0].domid]))
    host.start_daemon()
    assert at_last(lambda: latched(host), {}) == {}


def test_a_latch_of_which_only_the_sets_are_left_is_removed(host: Host) -> None:
    chains = (f"delete chain {family} {TABLE} {chain}\n" for family, chain in latch_text.CHAINS.items())
    # In one commit: between two, the daemon would remove the whole latch.
    assert hand_in_dom0(host, latch_text.foundation([]) + latch_text.latch([9]) + "".join(chains))
    assert until(lambda: "ifname" not in host.run(["nft", "list", "ruleset"]).stdout)


def test_another_vm_that_gets_the_domid_next_is_unlatched_by_its_hook(host: Host) -> None:
    guest = overdrawn(host)
    host.kill_daemon()
    domid = guest.domid
    guest.destroy()
    assert latched(host) == everywhere(domid)
    other = host.start("web2", domid=domid)
    assert latched(host) == everywhere()
    with Intruder(host, other, host.guests[0]) as me:
        me.send([me.frame(me.mark, 0x88B5, to="everybody")])
        assert until(lambda: me.reached() != {})


def test_a_domain_whose_start_could_not_be_recorded_stays_latched_after_an_admins_command(host: Host) -> None:
    guest = overdrawn(host)
    host.kill_daemon()
    with contextlib.closing(sqlite3.connect(host.ledger_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        guest.reboot()
    assert guest.domid in latched(host)["bridge"]
    host.xenbw("block", "db1")
    assert all({guest.domid, host.guests[0].domid} <= held for held in latched(host).values())
    assert latched(host).keys() == latch_text.FAMILIES.keys()


def test_frames_for_a_port_of_dom0_are_dropped(host: Host) -> None:
    guest = overdrawn(host)
    host.kill_daemon()
    card = attach(host, guest)
    bridge = host.run(["cat", "/sys/class/net/xenbr0/address"]).stdout.strip()
    with host.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        port.bind(("10.50.0.1", 7777))
        port.settimeout(0.3)
        with Intruder(host, guest, host.guests[0]) as me:
            datagram = ip4("10.50.0.77", "10.50.0.1", udp(me.mark, port=7777))
            me.send([frame(bridge, card.mac, datagram, 0x0800)], f"eth{card.devid}")
        with pytest.raises(TimeoutError):
            port.recv(100)

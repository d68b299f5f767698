"""The latch tells domains apart, whatever their vifs are named and however long their domids are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import story
from tests.support.host import Host
from tests.support.intruder import Intruder
from tests.support.latch import attach, everywhere, hand_in_dom0, latched, overdrawn, talk
from tests.support.pace import at_last, until, within
from xenbw.blocks import latch_text

pytestmark = pytest.mark.kernel


@pytest.fixture
def host() -> Iterator[Host]:
    """A host whose bridge iptables does not see, with db1 on the bridge."""
    with story.plain_bridge() as machine:
        yield machine


def test_frames_pass_a_vif_that_has_a_latched_domains_name_but_belongs_to_another_domain(host: Host) -> None:
    other = host.start("web2", vifname="vif99.7")
    guest = overdrawn(host, domid=99, vifname="itsown")
    assert at_last(lambda: latched(host), everywhere(guest.domid)) == everywhere(guest.domid)
    with Intruder(host, other, host.guests[0]) as me:
        talk(me, other.cards[0])
        assert me.reached().keys() == {"outside", "neighbour", "dom0"}


def test_frames_pass_such_a_misnamed_vif_that_starts_while_no_daemon_runs(host: Host) -> None:
    guest = overdrawn(host, domid=99, vifname="itsown")
    host.kill_daemon()
    other = host.start("web2", vifname="vif99.0")
    with Intruder(host, other, host.guests[0]) as me:
        talk(me, other.cards[0])
        assert me.reached().keys() == {"outside", "neighbour", "dom0"}
    with Intruder(host, guest, host.guests[0]) as me:
        talk(me, attach(host, guest))
        assert me.reached() == {}


def test_a_hook_that_latches_a_domain_leaves_misnamed_vifs_of_other_domains_open(host: Host) -> None:
    overdrawn(host, domid=99)
    host.kill_daemon()
    host.run(["nft", "flush", "ruleset"], check=True)
    other = host.start("web2", vifname="vif150.7")
    give_node(host, other.interface, f"backend/vif/{other.domid}/0")
    web1 = next(guest for guest in host.guests if guest.name == "web1")
    web1.stop()
    web1.start(150)
    assert latched(host) == everywhere(150)
    with Intruder(host, other, host.guests[0]) as me:
        talk(me, other.cards[0])
        assert me.reached().keys() == {"outside", "neighbour", "dom0"}
    with Intruder(host, web1, host.guests[0]) as me:
        talk(me, attach(host, web1))
        assert me.reached() == {}


def give_node(host: Host, interface: str, node: str) -> None:
    """Give an interface the xenbus node in sysfs that netback's interfaces have and veth's do not."""
    device = f"/sys/devices/virtual/net/{interface}"
    copied = "cp -P $1/ifindex $1/flags $1/address $1/master $1/netdev_group $kept"
    laid = f"mkdir $1/device && echo {node} >$1/device/nodename"
    script = f"kept=$(mktemp -d); {copied}; mount -t tmpfs tmpfs $1 && cp -P $kept/* $1 && {laid}"
    host.run(["sh", "-ec", script, "sh", device], check=True)


def test_a_misnamed_vif_is_latched_once_its_own_domain_is_latched(host: Host) -> None:
    other = host.start("web2", vifname="vif99.7")
    host.namespace.ip(f"link set {other.interface} group {latch_text.group(other.domid)}")
    overdrawn(host, domid=99, vifname="itsown")
    with Intruder(host, other, host.guests[0]) as me:
        host.xenbw("block", "web2")
        # Remove the seal, which comes ahead of the latch, with no daemon to restore it.
        host.kill_daemon()
        host.run(["nft", "delete", "table", "netdev", "xenbw"], check=True)
        host.raise_links(other)
        me.await_link()
        me.reached()
        talk(me, other.cards[0])
        assert me.reached() == {}


def test_a_misnamed_vif_has_only_the_exceptions_of_its_own_domain(host: Host) -> None:
    other = host.start("web2", vifname="vif99.7")
    host.namespace.ip(f"link set {other.interface} group {latch_text.group(other.domid)}")
    overdrawn(host, domid=99, vifname="itsown")
    host.xenbw("block", "web2")
    host.kill_daemon()
    own = latch_text.foundation([]) + latch_text.allow(99, ["10.50.0.2"]) + latch_text.latch([99, other.domid])
    assert hand_in_dom0(host, own)
    host.run(["nft", "delete", "table", "netdev", "xenbw"], check=True)
    host.run(["iptables-legacy", "-F", "XENBW"], check=True)
    host.raise_links(other)
    assert not within(lambda: other.ping("10.50.0.2"), 3)


def test_domains_with_domids_of_any_length_are_latched_and_unlatched_in_any_order(host: Host) -> None:
    # nft 1.0.6 cannot change a set of name patterns once it has patterns of several lengths.
    numbers = [7, 10, 1, 100, 32751, 11, 99, 2, 1000, 3, 70, 12345, 101]
    host.kill_daemon()
    held: set[int] = set()
    for domid in numbers:
        assert hand_in_dom0(host, latch_text.foundation([]) + latch_text.latch([domid]))
        held.add(domid)
        assert latched(host) == everywhere(*held)
    for domid in numbers[::2]:
        assert hand_in_dom0(host, latch_text.unlatch([domid]))
        assert hand_in_dom0(host, latch_text.unlatch([domid]))
        held.remove(domid)
        assert latched(host) == everywhere(*held)


def test_frames_pass_a_domain_whose_domid_begins_with_a_latched_domid(host: Host) -> None:
    host.kill_daemon()
    guest = host.start("web1", domid=70)
    assert hand_in_dom0(host, latch_text.foundation([]) + latch_text.latch([7, 700, 0, 71]))
    with Intruder(host, guest, host.guests[0]) as me:
        me.send([me.frame(me.mark, 0x88B5, to="everybody")])
        assert until(lambda: me.reached() != {})

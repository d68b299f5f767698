"""A vif attached to a running guest is connected before its vif script runs, and bridged before the hook is called.

netback connects as soon as the guest's frontend does (linux drivers/net/xen-netback/xenbus.c), vif-bridge makes the vif
a port of the bridge, and calls its hooks last.
"""

from __future__ import annotations

import socket

import pytest

from tests.support.guest import Card, Guest, agree
from tests.support.host import Host
from tests.support.pace import until
from tests.support.story import overdrawn
from xenbw.accounting import Tally
from xenbw.clock import boot_id
from xenbw.meters.counters import KernelMeter
from xenbw.meters.metering import Metering
from xenbw.meters.nft import NftMeter
from xenbw.nft.chains import Chains
from xenbw.nft.pipe import hand_to_nft
from xenbw.nft.port import Port
from xenbw.nft.quotas import Quotas
from xenbw.nft.tables import Tables

pytestmark = pytest.mark.kernel

PEER = "10.50.0.2"


def covered(host: Host, interface: str) -> bool:
    return f'device "{interface}"' in host.run(["nft", "list", "table", "netdev", "xenbw"]).stdout


def attach(host: Host, guest: Guest) -> Card:
    """A second vif, already on the bridge and used by the guest, before its vif script calls the hook."""
    card = guest.attach("10.50.0.77")
    interface = guest.interfaces[card.devid]
    assert until(lambda: covered(host, interface))
    host.namespace.ip(f"link set {interface} master xenbr0 up")
    guest.namespace.ip(f"route replace {PEER} dev eth{card.devid}")
    assert until(lambda: forwards(host, interface))
    return card


def forwards(host: Host, interface: str) -> bool:
    return host.run(["cat", f"/sys/class/net/{interface}/brport/state"]).stdout == "3\n"


def test_traffic_before_the_vif_script_ends_is_counted(running: Host) -> None:
    guest = running.start("web1")
    card = attach(running, guest)
    guest.send(50_000)
    guest.finish(card)
    guest.send(50_000)
    total = running.quiet(guest)
    assert guest.counters(card.devid).out_bytes > 100_000
    assert until(lambda: agree(running.usage("web1"), total))


def test_a_blocked_guest_gets_no_traffic_through_an_attached_vif(running: Host) -> None:
    guest = overdrawn(running)
    card = attach(running, guest)
    assert guest.send(10_000) == 0
    guest.finish(card)
    running.raise_links(guest)
    assert guest.send(10_000) == 0


def test_counting_goes_on_when_the_vif_script_renames_a_vif(running: Host) -> None:
    guest = running.start("web1")
    card = guest.attach("10.50.0.77")
    assert until(lambda: covered(running, guest.interfaces[card.devid]))
    running.store.write_all({f"/local/domain/0/backend/vif/{guest.domid}/{card.devid}/vifname": "web1.lan"})
    guest.finish(card)
    guest.interfaces[card.devid] = "web1.lan"
    guest.namespace.ip(f"route replace {PEER} dev eth{card.devid}")
    guest.send(50_000)
    total = running.quiet(guest)
    assert until(lambda: agree(running.usage("web1"), total))


def test_no_chain_is_left_of_a_vif_that_came_and_went_without_a_script(host: Host) -> None:
    host.namespace.ip("link add vif9.0 type veth peer name other")
    with host.namespace.entered():
        tables = Tables(hand_to_nft)
        chains = Chains(tables)
        metering = Metering(host.ledger(), Tally(), boot_id(), chains)
        metering.use(NftMeter(tables.of(), chains, Quotas(tables), KernelMeter()), "")
        port = Port(9, 0, socket.if_nametoindex("vif9.0"), "vif9.0")
        metering.begin([port])
        host.namespace.ip("link del vif9.0")
        for left in (True, True, False):
            assert (f"counter {port.key}-in" in host.run(["nft", "list", "counters"]).stdout) is left
            metering.sweep()
        metering.close()
        tables.close()

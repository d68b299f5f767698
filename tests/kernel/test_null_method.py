"""The method of null routes changes while VMs are blocked: no packet passes, and nothing of the other method stays."""

from __future__ import annotations

import signal

import pytest

from tests.support.flow import Flow
from tests.support.host import Host
from tests.support.netns import Namespace
from tests.support.nullroutes import DOM0, IPS, NFT, OUTSIDE
from tests.support.pace import until
from tests.support.story import overdrawn

pytestmark = pytest.mark.kernel


def impostor(host: Host) -> Namespace:
    """A machine on dom0's bridge, and no VM's, that has a blocked VM's addresses: no seal stops it."""
    machine = Namespace()
    host.namespace.ip(f"link add lan0 type veth peer name eth0 netns {machine.path}", "link set lan0 master xenbr0 up")
    machine.ip("link set eth0 up", *(f"addr add {ip}/{64 if ':' in ip else 24} dev eth0 nodad" for ip in IPS))
    return machine


@pytest.mark.parametrize("bridged", [False, True])
def test_a_change_of_the_method_lets_no_packet_pass(host: Host, bridged: bool) -> None:
    host.start_daemon()
    assert host.daemon is not None
    machine = impostor(host)
    host.xenbw("addvm", "web1", "--limit", "1GB", "--force", "--ip", *IPS)
    target, ends = (host.outside, OUTSIDE) if bridged else (host.namespace, DOM0)
    with Flow(machine, target, ends[0]) as four, Flow(machine, target, ends[1]) as six:
        assert until(lambda: four.arrived() > 100 and six.arrived() > 100)
        host.xenbw("block", "web1")
        assert all(host.in_chain(address) for address in IPS)
        before, sent = (four.settled(), six.settled()), (four.sent(), six.sent())
        for method in ("nft", "iptables", "nft", "iptables"):
            host.configure(f'[enforce]\nnull_routes = "{method}"\n')
            host.daemon.send_signal(signal.SIGHUP)
            stand, fall = (host.in_sets, host.in_chain) if method == "nft" else (host.in_chain, host.in_sets)
            assert until(lambda: all(map(stand, IPS)) and not any(map(fall, IPS)))  # noqa: B023 (it is called at once)
        assert (four.settled(), six.settled()) == before
        assert four.sent() - sent[0] > 300
        assert six.sent() - sent[1] > 300
        host.xenbw("lift", "web1")
        assert until(lambda: four.arrived() > before[0] and six.arrived() > before[1])
    assert "restored" not in host.log.read_text()
    machine.close()


def test_the_chain_of_another_method_is_removed_at_the_daemons_start(host: Host) -> None:
    host.start_daemon()
    overdrawn(host, ips=IPS)
    assert host.in_chain(IPS[0])
    host.run(["iptables-legacy", "-A", "FORWARD", "-s", "192.0.2.1", "-j", "DROP"], check=True)
    host.run(["iptables-legacy", "-A", "OUTPUT", "-j", "XENBW"], check=True)
    host.stop_daemon()
    host.configure(NFT)
    host.start_daemon()
    assert all(map(host.in_sets, IPS))
    assert host.rules() == [
        *(f"-P {chain} ACCEPT" for chain in ("INPUT", "FORWARD", "OUTPUT")),
        "-A FORWARD -s 192.0.2.1/32 -j DROP",
    ]
    assert not any("XENBW" in rule for rule in host.rules(6))

"""Misleading domains and vifs: a preserved dead domain, and a vif with the name of another domain's vif."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rig import guest, outside, package, park, shell, xenstore
from rig.guest import Card, Guest
from rig.pace import until


@pytest.fixture
def crasher(xenbw: None) -> Iterator[Guest]:
    """A guest over its allowance that restarts after a crash, while its dead domain is preserved."""
    each = park.numbered("crasher", 51)
    each.config.write_text(each.config.read_text() + 'on_crash = "rename-restart"\n')
    each.create()
    package.send_over("crasher")
    yield each
    for name in xenstore.domids():
        if name.startswith("crasher"):
            shell.run("xl", "destroy", name)
    each.config.unlink()


def test_a_preserved_dead_domain_does_not_release_its_vm(crasher: Guest) -> None:
    before, since = crasher.domid, outside.mark()
    crasher.say("echo c >/proc/sysrq-trigger")
    crasher.wait(other_than=before)
    kept = {name: domid for name, domid in xenstore.domids().items() if domid == before}
    assert kept, f"the dead domain is not kept: {xenstore.domids()}"
    # The daemon surveys all domains once a minute.
    crasher.run("sleep 70")
    assert crasher.silent("10.77.0.1", "10.77.0.2", "fd77::2")
    assert outside.packets(since, crasher) == []
    assert package.state("crasher") == "over"
    assert not kept.keys() & package.listing().keys()
    for version in ("iptables-legacy", "ip6tables-legacy"):
        assert any(ip in shell.run(version, "-S", "XENBW") for ip in crasher.cards[0].ips)


@pytest.fixture
def blocked(xenbw: None) -> Iterator[Guest]:
    """A guest that is over its allowance, and latched."""
    each = park.numbered("blocked", 52)
    each.create()
    package.send_over("blocked")
    yield each
    guest.forget(each)


@pytest.mark.parametrize("daemon", ["running", "dead"])
def test_a_vif_with_a_blocked_domains_name_is_not_cut_off(blocked: Guest, daemon: str) -> None:
    # As with a vifname= in a config that was written when the domain had another domid.
    card = Card("00:16:3e:77:00:35", ("10.77.0.53",), options=f"bridge=xenbr0,vifname=vif{blocked.domid}.1")
    innocent = Guest("innocent", [card])
    if daemon == "dead":
        package.stop_daemon()
    try:
        innocent.create()
        assert until(lambda: innocent.pings("10.77.0.2"))
        assert blocked.silent("10.77.0.1", "10.77.0.2", "fd77::2")
    finally:
        package.start_daemon()
        guest.forget(innocent)

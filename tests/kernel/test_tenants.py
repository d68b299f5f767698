"""What tenants read about their VM in xenstore, written by a running daemon."""

from __future__ import annotations

import signal

import pytest

from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import until

pytestmark = pytest.mark.kernel

LIMIT = 300_000


def node(host: Host, guest: Guest, name: str) -> str | None:
    return host.store.read(f"/local/domain/{guest.domid}/xenbw/{name}")


def folder(host: Host, guest: Guest) -> list[str]:
    return host.store.list(f"/local/domain/{guest.domid}/xenbw")


def test_a_guest_reads_its_state_from_the_first_byte_to_the_block_and_to_the_removal(running: Host) -> None:
    guest = running.start("web1")
    running.xenbw("addvm", "web1", "--limit", "300KB")
    assert until(lambda: node(running, guest, "state") == "ok")
    assert node(running, guest, "limit") == str(LIMIT)
    guest.send(2 * LIMIT)
    assert until(lambda: node(running, guest, "state") == "over")
    used = int(node(running, guest, "used") or "")
    assert 0.8 * LIMIT < used <= LIMIT
    assert node(running, guest, "until") == running.show("web1")["period_end"]
    running.xenbw("rmvm", "web1", "--yes")
    assert until(lambda: folder(running, guest) == [])


def test_a_restarted_guest_reads_the_same_and_its_old_home_stays_away(running: Host) -> None:
    guest = running.start("web1")
    running.xenbw("addvm", "web1", "--limit", "1TB")
    assert until(lambda: node(running, guest, "state") == "ok")
    before = guest.domid
    guest.reboot()
    assert until(lambda: node(running, guest, "state") == "ok")
    assert str(before) not in running.store.list("/local/domain")


def test_a_vm_that_nobody_added_is_told_nothing_and_a_changed_key_removes_the_nodes(running: Host) -> None:
    added, other = running.start("web1"), running.start("db1")
    running.xenbw("addvm", "web1", "--limit", "1TB")
    assert until(lambda: node(running, added, "state") == "ok")
    assert folder(running, other) == []
    running.configure("[guest]\nxenstore = false")
    assert running.daemon is not None
    running.daemon.send_signal(signal.SIGHUP)
    assert until(lambda: folder(running, added) == [])


def test_what_a_guest_could_not_be_told_while_xenstored_hung_is_told_afterwards(running: Host) -> None:
    guest = running.start("web1")
    running.xenbw("addvm", "web1", "--limit", "300KB")
    assert until(lambda: node(running, guest, "state") == "ok")
    running.store.hang()
    guest.send(2 * LIMIT)
    assert until(lambda: running.blocked(guest.address()))
    assert until(lambda: any("xenstore" in problem for problem in running.ask("status")["problems"]), 20)
    running.store.resume()
    assert until(lambda: node(running, guest, "state") == "over")
    assert until(lambda: running.ask("status")["problems"] == [], 20)

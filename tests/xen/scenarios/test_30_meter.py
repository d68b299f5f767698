"""Usage equals the counters of the guest's own network card."""

from __future__ import annotations

import pytest

from rig import package, shell
from rig.guest import Guest, Usage
from rig.pace import until


@pytest.mark.parametrize("peer", ["10.77.0.1", "10.77.0.2"], ids=["dom0", "the host outside"])
def test_bytes_to_and_from_another_host_are_counted(web: Guest, peer: str) -> None:
    before = package.settled(web)
    web.download(4, peer)
    web.upload(2, peer)
    after = package.settled(web)
    # Headers and acknowledgements come to a few percent.
    assert 4_000_000 < after.in_bytes - before.in_bytes < 4_200_000
    assert 2_000_000 < after.out_bytes - before.out_bytes < 2_200_000


def test_bytes_between_two_guests_are_counted_for_both(web: Guest, db: Guest) -> None:
    db.serve(1)
    received, sent = package.settled(web).in_bytes, package.settled(db).out_bytes
    web.download(2, db.ip)
    assert package.settled(web).in_bytes - received > 2_000_000
    assert package.settled(db).out_bytes - sent > 2_000_000


def test_a_guests_counters_equal_xentops(web: Guest) -> None:
    # The two are read one after the other, and dom0 may send a packet in between.
    assert until(lambda: _xentop("web1") == web.counters())
    package.settled(web)


def _xentop(name: str) -> Usage:
    """xentop's counters of a guest's first vif."""
    rows = shell.run("xentop", "-b", "-f", "-n", "-i", "1").splitlines()
    at = next(number for number, row in enumerate(rows) if row.split()[:1] == [name])
    # "Net0 RX:    19552bytes      231pkts        0err        0drop  TX: 10025096bytes ...": RX is from the guest.
    words = rows[at + 1].replace("bytes", " ").split()
    return Usage(in_bytes=int(words[words.index("TX:") + 1]), out_bytes=int(words[words.index("RX:") + 1]))


def test_traffic_before_a_guest_ends_stays_counted(web: Guest) -> None:
    web.download(1)
    before = package.settled(web)
    web.shut_down()
    ended = package.usage("web1")
    web.create()
    # At its end the guest may send a packet or two, and receive one.
    assert 0 <= ended.in_bytes - before.in_bytes < 1000
    assert 0 <= ended.out_bytes - before.out_bytes < 1000


def test_traffic_while_the_daemon_is_dead_counts_although_the_guest_ends_before_its_restart(db: Guest) -> None:
    before, counted = package.settled(db), db.counters()
    shell.run("systemctl", "stop", "xenbwd")
    try:
        db.download(2)
        received = db.counters().in_bytes - counted.in_bytes
        db.destroy()
    finally:
        package.start_daemon()
        db.create()
    assert package.usage("db1").in_bytes - before.in_bytes >= received

"""Usage is what the guest's own network card counted."""

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


def test_a_guests_counters_are_what_xentop_shows(web: Guest) -> None:
    # Read one after the other: dom0 may say something in between.
    assert until(lambda: _xentop("web1") == web.counters())
    package.settled(web)


def _xentop(name: str) -> Usage:
    """What xentop shows of a guest's first card."""
    rows = shell.run("xentop", "-b", "-f", "-n", "-i", "1").splitlines()
    at = next(number for number, row in enumerate(rows) if row.split()[:1] == [name])
    # "Net0 RX:    19552bytes      231pkts        0err        0drop  TX: 10025096bytes ...": RX is from the guest.
    words = rows[at + 1].replace("bytes", " ").split()
    return Usage(in_bytes=int(words[words.index("TX:") + 1]), out_bytes=int(words[words.index("RX:") + 1]))


def test_what_passed_before_a_guest_ends_stays_counted(web: Guest) -> None:
    web.download(1)
    before = package.settled(web)
    web.shut_down()
    ended = package.usage("web1")
    web.create()
    # It may say goodbye with a packet or two, and hear one.
    assert 0 <= ended.in_bytes - before.in_bytes < 1000
    assert 0 <= ended.out_bytes - before.out_bytes < 1000


def test_what_passes_while_the_daemon_is_dead_counts_though_the_guest_is_gone_before_it_is_back(db: Guest) -> None:
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

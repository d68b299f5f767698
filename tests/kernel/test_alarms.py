"""Alarms of a running daemon: a guest that floods among many that do nothing, and the daemon's own end."""

from __future__ import annotations

import random
import signal
import time

import pytest

from tests.support.barrage import barrage
from tests.support.crowd import crowd
from tests.support.dom0 import OUTSIDE_ADDRESSES
from tests.support.frames import BROADCAST, frame
from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.intruder import mac_of
from tests.support.pace import busy, until, within
from tests.support.packets import ip4, udp
from xenbw.judge import flood
from xenbw.ledger import eventlog

pytestmark = pytest.mark.kernel

RATE = 43_000
QUIET = 100
NOBODY = "00:16:3e:7f:ff:ff"


def told(host: Host) -> list[str]:
    """The texts of flood alarms, oldest first."""
    found = reversed(eventlog.newest(host.ledger(), 1000))
    return [text for _, kind, text in found if kind.startswith("flood-")]


def spoofed(guest: Guest, to: str) -> list[bytes]:
    """UDP datagrams from many addresses that are not the guest's, to a MAC."""
    sources = random.Random(1)
    return [
        frame(
            to,
            guest.cards[0].mac,
            ip4(f"203.0.113.{sources.randrange(1, 255)}", OUTSIDE_ADDRESSES[4], udp(bytes(18))),
            0x0800,
        )
        for _ in range(64)
    ]


def wait_until_known(host: Host) -> None:
    """Wait until the daemon knows what is usual for the guests of now."""
    time.sleep(flood.KNOWN + 5)
    assert told(host) == []


@pytest.mark.alone
def test_a_flood_of_one_guest_among_a_hundred_is_told_within_five_seconds_and_names_no_other(running: Host) -> None:
    guest, outside = running.start("web1"), mac_of(running.outside, "eth0")
    with crowd(running, QUIET):
        assert until(lambda: running.ask("status")["interfaces"] == QUIET + 1, 30)
        wait_until_known(running)
        with barrage(guest.namespace, "eth0", spoofed(guest, outside), RATE):
            assert until(lambda: guest.sent_frames() > 1000)
            assert within(lambda: told(running) != [], 5)
            time.sleep(5)
        assert until(lambda: len(told(running)) == 2, flood.ENDING + 5)
    began, ended = told(running)
    assert began.startswith("web1 floods: sends ")
    assert 20_000 < float(began.split()[3].replace(",", "")) < 2 * RATE
    assert ended.startswith("web1 floods no longer: sent ")


@pytest.fixture
def limited() -> Host:
    """Floods begin at 500 packets per second, whatever is usual."""
    return Host("[alert]\npps = 500\n")


@pytest.mark.parametrize("to", [BROADCAST, NOBODY])
def test_frames_that_the_bridge_gives_to_all_guests_name_only_their_sender(limited: Host, to: str) -> None:
    with limited as host:
        host.start_daemon()
        guest = host.start("web1")
        host.start("web2")
        with crowd(host, 10):
            assert until(lambda: host.ask("status")["interfaces"] == 12, 30)
            with barrage(guest.namespace, "eth0", spoofed(guest, to), 3000):
                assert until(lambda: told(host) != [])
                time.sleep(3)
        assert [text.split(":")[0] for text in told(host)] == ["web1 floods"]


@pytest.mark.parametrize("bare", [False, True], ids=["dropped by tc", "refused by nft alone"])
def test_a_blocked_guest_that_floods_is_told_with_what_is_refused(limited: Host, bare: bool) -> None:
    with limited as host:
        host.start_daemon()
        guest = host.start("web1")
        outside = mac_of(host.outside, "eth0")
        host.xenbw("addvm", "web1", "--limit", "1TB", *(["--allow", "192.0.2.1"] if bare else []))
        host.xenbw("block", "web1")
        assert until(lambda: host.drops(guest.interface) is not bare)
        with barrage(guest.namespace, "eth0", spoofed(guest, outside), 3000):
            assert until(lambda: told(host) != [])
        (text,) = told(host)
        assert text.startswith("web1 floods: sends ")
        assert text.endswith("/s refused")


def test_a_flood_to_a_blocked_guest_is_told_too(limited: Host) -> None:
    with limited as host:
        host.start_daemon()
        guest = host.start("web1")
        host.xenbw("addvm", "web1", "--limit", "1TB")
        host.xenbw("block", "web1")
        sent = [frame(guest.cards[0].mac, mac_of(host.outside, "eth0"), bytes(46))]
        with barrage(host.outside, "eth0", sent * 16, 3000):
            assert until(lambda: told(host) != [])
        assert told(host)[0].startswith("web1 floods: is sent ")
        assert told(host)[0].endswith("/s refused")


def test_a_daemon_that_is_killed_in_a_flood_tells_it_once(limited: Host) -> None:
    with limited as host:
        host.start_daemon()
        guest, outside = host.start("web1"), mac_of(host.outside, "eth0")
        with barrage(guest.namespace, "eth0", spoofed(guest, outside), 3000):
            assert until(lambda: told(host) != [])
            for _ in range(2):
                host.kill_daemon()
                host.start_daemon()
                time.sleep(4)
            assert len(told(host)) == 1
        assert until(lambda: len(told(host)) == 2, flood.ENDING + 5)
        assert " at least " in told(host)[1]


def test_a_daemon_that_its_watchdog_ended_tells_so_when_it_is_back(running: Host) -> None:
    def troubles() -> list[str]:
        return [text for _, kind, text in eventlog.newest(running.ledger(), 10) if kind == "trouble"]

    assert running.daemon is not None
    running.daemon.send_signal(signal.SIGABRT)
    running.daemon.wait(timeout=busy(10))
    running.start_daemon()
    assert until(lambda: troubles() != [])
    (text,) = troubles()
    assert text.startswith("xenbwd hung, in ")
    assert text.endswith(", and its watchdog restarted it")
    assert running.stop_daemon() == 0
    running.start_daemon()
    time.sleep(2)
    assert len(troubles()) == 1

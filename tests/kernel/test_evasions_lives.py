"""Ways round block and meter by restarts, more vifs, or timing."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support import story
from tests.support.ears import Ear
from tests.support.guest import ETH_HLEN, Guest
from tests.support.host import Host
from tests.support.intruder import Intruder
from tests.support.pace import until
from tests.support.packets import ip4, udp
from tests.support.replug import replug
from xenbw.model import Amounts, Counters

pytestmark = pytest.mark.kernel

AGAIN = 4


def reboot(_: Host, guest: Guest) -> None:
    guest.reboot()


def crash(_: Host, guest: Guest) -> None:
    guest.destroy()
    guest.start()


LIVES: dict[str, Callable[[Host, Guest], None]] = {"a reboot": reboot, "a crash": crash, "detach and attach": replug}


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host whose bridge iptables does not see, with a second guest on the bridge."""
    with story.plain_bridge() as machine:
        yield machine


@pytest.fixture
def me(host: Host) -> Iterator[Intruder]:
    """A new VM for each test, with a number in its name."""
    guest = host.start(f"web{host.take_domid(None)}")
    with Intruder(host, guest, host.guests[0]) as intruder:
        yield intruder
    guest.destroy()


@contextlib.contextmanager
def sending(me: Intruder) -> Iterator[Callable[[], int]]:
    """The guest sends all the time, as soon as it has a card; yields a function that returns how often it sent."""
    rounds, done = 0, threading.Event()

    def send() -> None:
        nonlocal rounds
        while not done.wait(0.001):
            with contextlib.suppress(OSError, RuntimeError):  # the guest has no card, or does not run
                me.send(
                    [
                        me.frame(ip4(me.ip, me.addresses["outside"], udp(me.mark + bytes(500))), to=to)
                        for to in ("outside", "everybody")
                    ]
                )
                rounds += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield lambda: rounds
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("life", LIVES)
def test_a_blocked_vm_that_restarts_again_and_again_gets_no_traffic_through(me: Intruder, life: str) -> None:
    me.host.xenbw("block", me.guest.name)
    me.reached()
    with sending(me) as rounds:
        for _ in range(AGAIN):
            before = rounds()
            LIVES[life](me.host, me.guest)
            assert until(lambda: rounds() > before + 10)  # noqa: B023 (it is called at once)
            me.address()
    assert me.reached() == {}
    assert me.guest.counters().in_bytes == 0


# On linux 6.18 a netdev chain stays when its device goes, and is bound to the next device of that name.
@pytest.mark.parametrize("life", ["a reboot", "a crash", "detach and attach"])
def test_every_byte_of_a_vm_that_restarts_again_and_again_is_counted(me: Intruder, life: str) -> None:
    total = Counters(0, 0)
    for _ in range(AGAIN):
        me.guest.send(30_000)
        me.guest.receive(20_000)
        total = total.plus(me.host.quiet(me.guest))
        LIVES[life](me.host, me.guest)
    total = total.plus(me.host.quiet(me.guest))
    assert until(lambda: counted_in_all_lives(me) == total), (counted_in_all_lives(me), total)


def test_a_vif_detached_and_attached_while_no_daemon_runs_is_counted_once() -> None:
    with Host() as host:
        host.start_daemon()
        neighbour, guest = host.start("db1"), host.start("web1")
        with Intruder(host, guest, neighbour) as me:
            host.kill_daemon()
            total = host.quiet(guest)
            for _ in range(2):
                replug(host, guest)
                guest.send(30_000)
                total = total.plus(host.quiet(guest))
            host.start_daemon()
            assert until(lambda: counted_in_all_lives(me) == total, 3), (counted_in_all_lives(me), total)


def counted_in_all_lives(me: Intruder) -> Counters:
    """The bytes of all vifs of the guest, with flood: a bridge floods until it has learned where a MAC is."""
    me.host.ask("commit")
    lives = me.host.show(me.guest.name)["bindings"]
    return Counters(
        sum(life["in_bytes"] + life["flood_bytes"] for life in lives), sum(life["out_bytes"] for life in lives)
    )


def test_a_second_vif_of_a_blocked_vm_gets_no_traffic_through(me: Intruder) -> None:
    me.host.xenbw("block", me.guest.name)
    card = me.guest.attach("10.50.0.77")
    me.guest.finish(card)
    me.host.raise_links(me.guest)
    me.reached()
    for _ in range(10):
        me.send([me.frame(me.mark, 0x88B5, to="everybody", sender=card.mac)])
        time.sleep(0.02)
    assert me.reached() == {}


def test_every_byte_under_way_when_the_block_begins_is_counted_or_refused(me: Intruder) -> None:
    with Ear(me.host.outside) as wire, sending(me):
        assert until(lambda: me.reached() != {})
        me.host.xenbw("block", me.guest.name)
        fallen = time.time()
        time.sleep(0.3)
        frames = [one for one in wire.heard() if me.mark in one.frame]
    assert frames
    assert [one for one in frames if one.at > fallen] == []
    me.host.quiet(me.guest)
    card = me.guest.counters()
    assert until(lambda: counted(me).everything.in_bytes == card.in_bytes), (counted(me), card)
    # What tc's drop refused is known from the kernel's counters, which are read after our own: frames that pass between
    # the last two readings before the drop are missing from it, more of them the longer the daemon had to wait for a
    # CPU. And veth counts Ethernet headers of frames from the guest, as netback does not.
    passed = sum(len(one.frame) - ETH_HLEN for one in frames)
    assert passed <= counted(me).out_bytes < passed + 3000, (passed, counted(me))  # it also asked who has an address
    beyond = counted(me).everything.out_bytes - card.out_bytes
    assert -100 * len(frames[0].frame) <= beyond <= max(3000, card.out_bytes // 10), (counted(me), card)


def counted(me: Intruder) -> Amounts:
    """The ledger's amounts for the guest's present life."""
    me.host.ask("commit")
    (binding,) = (b for b in me.host.ledger().live_bindings().values() if b.domid == me.guest.domid)
    return binding.counted

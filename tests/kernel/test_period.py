"""Blocks and periods: the daemon's work with the kernel's real counters and rules, and a clock set by the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest

from tests.support.clock import HandClock, utc
from tests.support.guest import Guest
from tests.support.host import Host
from xenbw import config
from xenbw.accounting import Pending, Share
from xenbw.clock import boot_id
from xenbw.daemon.cycle import Work
from xenbw.enforce.reconcile import Reconciler
from xenbw.ledger import eventlog, portions, usagelog
from xenbw.model import Counters, State
from xenbw.nft.netlink import RuleWatch
from xenbw.quota import FRAME
from xenbw.runner import run
from xenbw.xen.xenstore import Lookup

pytestmark = pytest.mark.kernel

LIMIT = 1_000_000
MARCH, APRIL, MAY = utc("2026-03-01"), utc("2026-04-01"), utc("2026-05-01")


class Daemon:
    """The daemon's work in a miniature dom0, run one cycle at a time."""

    def __init__(self, host: Host, clock: HandClock) -> None:
        self.host, self.clock = host, clock
        # The clock is set forward and back, and doubted for as long as on a dom0.
        host.configure("[period]\nclock_wait = 900\n")
        self.guest = host.start("web1")
        self.start()
        host.add("web1", limit_bytes=LIMIT)
        self.cycle()

    def start(self) -> None:
        """Start, also after being killed: no state in memory is kept."""
        settings = config.load(self.host.config)
        lookup = Lookup(str(self.host.store.path))
        sysfs = self.host.namespace.root / "sys/class/net"
        with self.host.namespace.entered():
            ledger, clock = self.host.ledger(), self.clock
            self.work = Work(settings, ledger, lookup, clock, clock.vouches, boot_id(), run, RuleWatch().apply, sysfs)
            self.work.enforce()
            self.work.start()

    def cycle(self, **later: float) -> None:
        self.clock.go(**(later or {"seconds": 1}))
        with self.host.namespace.entered():
            self.work.cycle([])
            self.work.sync()
            self.work.catch_up()

    def go_over(self) -> Guest:
        self.guest.send(LIMIT)
        self.cycle()
        assert self.state is State.OVER
        assert self.host.blocked(self.guest.address())
        return self.guest

    def hush(self) -> Counters:
        """Stop all traffic, even neighbour discovery; returns the bytes that the guest counted in this life."""
        return self.host.quiet(self.guest)

    def refused(self) -> Counters:
        """The bytes that the guest sent and that the kernel refused."""
        (binding,) = self.host.ledger().live_bindings().values()
        return Counters(0, binding.counted.refused_out_bytes)

    @property
    def state(self) -> State:
        vm = self.host.ledger().vm_named("web1")
        assert vm is not None
        return vm.state

    def periods(self) -> dict[datetime, tuple[Counters, int]]:
        vm = self.host.ledger().vm_named("web1")
        assert vm is not None
        return {start: (usage, divided) for start, usage, divided in usagelog.periods(self.host.ledger(), vm.id)}


@pytest.fixture
def clock() -> HandClock:
    return HandClock(utc("2026-03-20 12:00"), elapsed=100_000)


@pytest.fixture
def daemon(host: Host, clock: HandClock) -> Iterator[Daemon]:
    yield Daemon(host, clock)


def test_a_blocked_vm_is_released_when_its_new_period_begins(daemon: Daemon, clock: HandClock) -> None:
    guest = daemon.go_over()
    daemon.cycle(days=11)
    assert daemon.host.blocked(guest.address())
    daemon.cycle(days=1)
    assert daemon.state is State.OK
    assert guest.reaches("10.50.0.2")
    assert any("a new period began" in text for _, _, text in eventlog.newest(daemon.host.ledger(), 3))


def test_a_vm_that_goes_over_is_over_in_the_ledger_if_the_daemon_is_killed_while_it_blocks(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(_: Reconciler, *__: object) -> list[str]:
        raise KeyboardInterrupt

    daemon.guest.send(LIMIT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Reconciler, "reconcile", die)
        daemon.cycle()
    assert daemon.state is State.OVER
    assert sum(sum(usage) for usage, _ in daemon.periods().values()) > LIMIT - FRAME


def test_with_a_doubted_clock_no_vm_is_released(daemon: Daemon, clock: HandClock) -> None:
    guest = daemon.go_over()
    clock.wall, clock.synced = utc("2026-06-01"), False
    daemon.cycle()
    assert daemon.host.blocked(guest.address())
    clock.wall = utc("2026-03-20 12:10")
    daemon.cycle()
    clock.synced = True
    daemon.cycle()
    assert daemon.host.blocked(guest.address())
    assert list(daemon.periods()) == [MARCH]


def test_a_clock_never_synchronised_is_trusted_after_a_quarter_of_an_hour(daemon: Daemon, clock: HandClock) -> None:
    guest = daemon.go_over()
    clock.wall, clock.synced = utc("2026-04-02"), False
    daemon.cycle()
    daemon.cycle(minutes=14)
    assert daemon.host.blocked(guest.address())
    daemon.cycle(minutes=1)
    assert not daemon.host.blocked(guest.address())


@pytest.mark.parametrize("restarted", [False, True])
def test_after_a_clock_that_began_in_1970_is_set_all_usage_of_this_boot_is_in_the_present_period(
    host: Host, restarted: bool
) -> None:
    clock = HandClock(utc("1970-01-01 00:01"), elapsed=60, synced=False)
    daemon = Daemon(host, clock)
    daemon.guest.send(100_000)
    daemon.cycle()
    daemon.guest.send(100_000)
    clock.wall, clock.synced = utc("2026-03-20 12:00"), True
    if restarted:
        daemon.start()
    daemon.cycle()
    daemon.guest.send(100_000)
    daemon.cycle()
    counted = daemon.hush()
    daemon.cycle()
    ((start, (usage, _)),) = daemon.periods().items()
    assert (start, usage) == (MARCH, counted)
    rows = host.ledger().rows("SELECT hour FROM usage WHERE in_bytes + out_bytes > 0")
    assert {row[0] for row in rows} <= {f"2026-03-20T{hour}:00:00.000000+00:00" for hour in (11, 12)}
    assert len(host.ledger().rows("SELECT * FROM usage")) < 10
    ((_, portion),) = portions.lives(host.ledger(), vm_id_of(daemon), MARCH)
    assert portion == counted


def vm_id_of(daemon: Daemon) -> int:
    vm = daemon.host.ledger().vm_named("web1")
    assert vm is not None
    return vm.id


def test_a_start_that_a_hook_recorded_with_a_wrong_clock_is_charged_to_the_hours_since_the_boot(
    daemon: Daemon, clock: HandClock
) -> None:
    with daemon.host.ledger().transaction() as db:
        db.execute("UPDATE binding SET started_at = '1970-01-01T00:00:00.000000+00:00', last_at = NULL")
        db.execute("UPDATE meta SET value = '1970-01-01T00:00:00.000000+00:00 1.0 before' WHERE key = 'alive'")
    daemon.guest.send(100_000)
    daemon.start()
    daemon.cycle()
    counted = daemon.hush()
    daemon.cycle()
    assert sum(sum(usage) for usage, _ in daemon.periods().values()) == sum(counted)
    assert len(daemon.host.ledger().rows("SELECT * FROM usage")) < 100_000 / 3600 + 5


def test_a_clock_that_goes_back_reopens_no_period_and_loses_no_byte(daemon: Daemon, clock: HandClock) -> None:
    daemon.go_over()
    daemon.cycle(days=12)
    assert daemon.state is State.OK
    clock.wall = utc("2026-03-31 23:00")
    daemon.guest.send(200_000)
    counted = daemon.hush()
    daemon.cycle()
    assert daemon.state is State.OK
    periods = daemon.periods()
    total = Counters(0, 0)
    for usage, _ in periods.values():
        total = total.plus(usage)
    assert total.plus(daemon.refused()) == counted
    assert periods[APRIL][0].out_bytes > 200_000


def test_bytes_over_a_period_boundary_without_a_daemon_are_divided_by_time(daemon: Daemon, clock: HandClock) -> None:
    daemon.cycle()
    before = daemon.periods().get(MARCH, (Counters(0, 0), 0))[0]
    daemon.guest.send(400_000)
    counted = daemon.hush()
    clock.go(days=23)  # to April 12th, noon: half of the time in each month
    daemon.start()
    daemon.cycle()
    periods = daemon.periods()
    assert periods[MARCH][0].plus(periods[APRIL][0]) == counted
    added = periods[MARCH][0].out_bytes - before.out_bytes
    assert abs(added - periods[APRIL][0].out_bytes) < 5000
    assert periods[APRIL][1] == sum(periods[APRIL][0])
    assert daemon.state is State.OK


def test_a_forecast_is_told_once_also_after_a_restart_and_off_after_a_raise(daemon: Daemon, clock: HandClock) -> None:
    ledger, vm_id = daemon.host.ledger(), vm_id_of(daemon)
    hours = [clock.wall.replace(minute=0, second=0) - hour * timedelta(hours=1) for hour in range(1, 72)]
    shares = tuple((vm_id, Share(MARCH, hour, 0, LIMIT // 100, 0)) for hour in hours)
    alive = ledger.alive()
    assert alive is not None
    usagelog.commit(ledger, Pending((), shares), alive)

    def told(*cycles: int) -> list[str]:
        for hours in cycles:
            daemon.cycle(hours=hours)
        return [kind for _, kind, _ in reversed(eventlog.newest(ledger, 20)) if kind.startswith("forecast")]

    daemon.start()
    daemon.cycle()
    assert told() == []
    assert told(1) == ["forecast"]
    daemon.start()
    assert told(1, 1, 1) == ["forecast"]
    daemon.host.add("web1", limit_bytes=100 * LIMIT)
    assert told(1, 1, 1) == ["forecast", "forecast-off"]


def test_a_lift_ends_with_the_period(daemon: Daemon, clock: HandClock) -> None:
    guest = daemon.go_over()
    ledger = daemon.host.ledger()
    vm = ledger.vm_named("web1")
    assert vm is not None
    ledger.set_vm(vm.id, lifted_until=APRIL)
    daemon.cycle()
    assert daemon.state is State.EXEMPT
    assert guest.reaches("10.50.0.2")
    daemon.cycle(days=12)
    assert daemon.state is State.OK
    guest.send(LIMIT)
    daemon.cycle()
    assert daemon.state is State.OVER


def test_a_restart_in_a_later_period_counts_nothing_twice(daemon: Daemon, clock: HandClock) -> None:
    stops: list[Callable[[], None]] = [daemon.start, daemon.cycle]
    for day in range(6):
        daemon.guest.send(50_000)
        clock.go(days=10)
        stops[day % 2]()
    counted = daemon.hush()
    daemon.cycle()
    total = Counters(0, 0)
    for usage, _ in daemon.periods().values():
        total = total.plus(usage)
    assert total == counted
    assert list(daemon.periods()) == [MAY, APRIL, MARCH]

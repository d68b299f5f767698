"""A VM past its allowance whose action is to throttle: it keeps to its rate, and nothing lets it go faster."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.nftprogram import without_limits
from tests.support.pace import until
from tests.support.story import LIMIT
from tests.support.traffic import stream
from xenbw.accounting import Pending, Share
from xenbw.clock import boot_id
from xenbw.ledger import usagelog
from xenbw.ledger.ledger import Alive
from xenbw.model import Action, State
from xenbw.quota import period_at

pytestmark = pytest.mark.kernel

OUTSIDE = "10.50.0.2"
RATE = 8_000_000  # bits per second
_BYTES = RATE / 8
_SECONDS = 2.0
THROTTLE = ("--action", "throttle", "--rate", "8Mbit")


def throttled(host: Host, name: str = "web1", **settings: object) -> Guest:
    """A running VM that has used up its allowance and is throttled."""
    guest = host.start(name)
    host.add(name, **{"limit_bytes": LIMIT, "action": Action.THROTTLE, "rate": RATE, **settings})
    host.ask("sync")
    assert guest.reaches(OUTSIDE)
    guest.send(2 * LIMIT)
    assert until(lambda: state(host, name) is State.THROTTLED)
    return guest


def use(host: Host, name: str, size: int) -> None:
    """Charge a VM with traffic from it, without a daemon."""
    now = datetime.now(UTC)
    ledger = host.ledger()
    vm, start = ledger.meet(name, now), period_at(now, 1, ZoneInfo("UTC")).start
    ledger.set_vm(vm.id, period_start=start, period_rule="1@UTC")
    share = Share(start, now.replace(minute=0, second=0, microsecond=0), 0, size, 0)
    usagelog.commit(ledger, Pending((), ((vm.id, share),)), Alive(now, time.clock_gettime(7), boot_id()))


def state(host: Host, name: str) -> State:
    vm = host.ledger().vm_named(name)
    assert vm is not None
    return vm.state


def out(host: Host, guest: Guest) -> float:
    """Bytes per second of one TCP connection from the guest."""
    return stream(guest.namespace, host.outside, OUTSIDE, _SECONDS)


def into(host: Host, guest: Guest) -> float:
    """Bytes per second of one TCP connection to the guest."""
    return stream(host.outside, guest.namespace, guest.address(), _SECONDS)


def slow(rate: float) -> bool:
    # Beside the rate the kernel grants what a second before saved, and a burst.
    return rate <= _BYTES * (_SECONDS + 1.2) / _SECONDS


def test_its_traffic_keeps_to_the_rate_each_way(running: Host) -> None:
    guest = throttled(running)
    for measure in (out, into):
        rates = [0.0]
        # A stream on a busy machine may wait for its turn in one of the measurements.
        while rates[-1] <= _BYTES * 0.85 and len(rates) <= 3:
            rates.append(measure(running, guest))
        assert all(map(slow, rates)), rates
        assert rates[-1] > _BYTES * 0.85, rates


def test_every_byte_to_it_is_counted_across_a_flush_of_the_rules(running: Host) -> None:
    guest = throttled(running)
    with ThreadPoolExecutor(1) as meanwhile:
        streamed = meanwhile.submit(into, running, guest)
        time.sleep(_SECONDS / 2)
        running.run(["nft", "flush", "ruleset"], check=True)
        streamed.result()
    received = running.quiet(guest).in_bytes

    def counted() -> int:
        running.ask("commit")
        (life,) = running.show("web1")["bindings"]
        return int(life["in_bytes"] + life["flood_bytes"])

    assert until(lambda: counted() == received), (counted(), received)


def test_another_rate_to_the_guest_is_its_own(running: Host) -> None:
    guest = throttled(running, rate_in=80_000_000)
    assert slow(out(running, guest))
    assert not slow(into(running, guest))


def test_neighbours_in_good_standing_are_not_slowed(running: Host) -> None:
    throttled(running)
    other = running.start("web2")
    assert not slow(out(running, other))


def test_it_stays_so_when_it_restarts_with_the_daemon_dead(running: Host) -> None:
    guest = throttled(running)
    running.kill_daemon()
    guest.reboot()
    assert slow(out(running, guest))
    assert slow(into(running, guest))


def test_it_stays_so_after_the_rules_were_flushed(running: Host) -> None:
    guest = throttled(running)
    running.run(["nft", "flush", "ruleset"], check=True)
    running.ask("sync")
    assert slow(out(running, guest))


def test_all_its_vifs_share_the_rate(running: Host) -> None:
    guest = throttled(running)
    card = guest.attach("10.50.0.77")
    guest.finish(card)
    running.ask("sync")
    guest.namespace.ip(f"route replace {OUTSIDE} dev eth{card.devid}")
    assert slow(out(running, guest))


def test_a_raised_allowance_ends_it(running: Host) -> None:
    guest = throttled(running)
    running.add("web1", limit_bytes=10**12)
    running.ask("sync")
    assert state(running, "web1") is State.OK
    assert not slow(out(running, guest))


def test_another_rate_is_taken_over(running: Host) -> None:
    guest = throttled(running)
    running.add("web1", rate=10 * RATE)
    running.ask("sync")
    assert not slow(out(running, guest))


def test_what_is_too_fast_is_refused_and_no_usage(running: Host) -> None:
    guest = throttled(running)
    before = sum(running.usage("web1"))
    out(running, guest)
    total = running.quiet(guest)
    used = running.usage("web1")
    # The warm-up of 1.5 s, and the second's worth that the kernel grants at once.
    assert sum(used) - before <= (_SECONDS + 3) * _BYTES * 1.1
    assert sum(total) > sum(used)


def test_the_daemon_counts_throttled_vms(running: Host) -> None:
    throttled(running)
    told = running.ask("status")
    assert (told["throttled"], told["blocked"], told["over"], told["throttle_problem"]) == (1, 0, 0, None)
    assert running.notified("STATUS=1 vifs of 1 VMs metered (nft), 0 over, 1 throttled, 0 addresses null-routed")


def test_without_a_daemon_a_lowered_allowance_throttles_at_once(host: Host) -> None:
    # The hook binds the vif only in a ledger that exists.
    use(host, "web1", LIMIT)
    guest = host.start("web1")
    host.xenbw("addvm", "web1", "--limit", "1KB", *THROTTLE)
    assert state(host, "web1") is State.THROTTLED
    assert slow(out(host, guest))
    assert slow(into(host, guest))


def test_without_a_daemon_a_host_that_cannot_throttle_refuses_to_and_says_so_of_a_vm_that_is_throttled(
    host: Host,
) -> None:
    host.add("web1", limit_bytes=1, action=Action.THROTTLE, rate=RATE)
    use(host, "web1", LIMIT)
    without_limits(host)
    refused = host.xenbw("addvm", "web2", "--force", "--limit", "1TB", *THROTTLE, check=False)
    cannot = "VMs cannot be throttled on this host: nft refuses limits in netdev chains: "
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(f"xenbw: web2: {cannot}")
    assert host.ledger().vm_named("web2") is None
    said = host.xenbw("addvm", "web1", "--warn", "90").stderr.splitlines()
    assert state(host, "web1") is State.THROTTLED
    problems = [line for line in said if line.startswith("!")]
    assert len(problems) == 1
    assert problems[0].startswith(f"! {cannot}")


def test_past_the_hard_limit_it_is_blocked(running: Host) -> None:
    guest = throttled(running, hard_limit_bytes=4 * LIMIT)
    out(running, guest)
    assert until(lambda: running.blocked(guest.address()))
    assert guest.send(10_000) == 0


def test_it_is_throttled_whichever_meter_counts() -> None:
    with Host('[meter]\nsource = "kernel"\n') as host:
        host.start_daemon()
        guest = throttled(host)
        assert slow(out(host, guest))
        host.kill_daemon()
        guest.reboot()
        assert slow(out(host, guest))
        assert slow(into(host, guest))

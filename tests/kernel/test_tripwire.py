"""The kernel holds each VM's allowance at the frame: no program has to run for it."""

from __future__ import annotations

import signal

import pytest

from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import until
from xenbw.model import Action, Count, State
from xenbw.quota import FRAME

pytestmark = pytest.mark.kernel

OUTSIDE = "10.50.0.2"
LIMIT = 1_000_000
BATCH = 200_000


def near(host: Host, name: str = "web1", **settings: object) -> Guest:
    """A running VM with an allowance of LIMIT bytes, of which it has used little, and which the kernel knows."""
    guest = host.start(name)
    host.add(name, **{"limit_bytes": LIMIT, **settings})
    host.ask("sync")
    assert guest.reaches(OUTSIDE)
    return guest


def used(host: Host, name: str = "web1") -> int:
    return sum(host.usage(name))


def state(host: Host, name: str = "web1") -> State:
    vm = host.ledger().vm_named(name)
    assert vm is not None
    return vm.state


def blocked(host: Host, name: str = "web1") -> bool:
    vm = host.ledger().vm_named(name)
    return vm is not None and vm.id in host.ledger().active_blocks()


def held_at(host: Host, limit: int) -> bool:
    """Whether web1 is soon blocked, a frame short of the limit at most and not a byte past it."""
    return until(lambda: blocked(host)) and limit - FRAME < used(host) <= limit


def use_up(guest: Guest, times: int = 2) -> None:
    """Send some times the allowance."""
    for _ in range(times * LIMIT // BATCH):
        guest.send(BATCH)


def test_not_a_byte_passes_the_allowance_and_the_vm_is_blocked(running: Host) -> None:
    guest = near(running)
    use_up(guest)
    assert held_at(running, LIMIT)
    assert not guest.reaches(OUTSIDE)


@pytest.mark.parametrize("past", [0, 1, 2])
def test_no_frame_passes_the_allowance_not_even_by_a_byte(running: Host, past: int) -> None:
    guest, frame = near(running, count=Count.OUT), 1400 + 8 + 20
    limit = running.usage("web1").out_bytes + 3 * frame - past
    running.add("web1", limit_bytes=limit, count=Count.OUT)
    running.ask("sync")
    guest.send(6 * 1400)
    assert until(lambda: blocked(running))
    # Kernels differ in whether a frame passes that takes the usage exactly to the allowance.
    assert limit - frame <= running.usage("web1").out_bytes <= limit


def test_the_reason_says_that_it_used_up_its_allowance(running: Host) -> None:
    guest = near(running)
    use_up(guest)
    assert until(lambda: blocked(running))
    vm = running.ledger().vm_named("web1")
    assert vm is not None
    assert "used up its allowance" in vm.state_reason


def test_with_the_daemon_dead_it_is_refused_and_stays_so_when_it_restarts(running: Host) -> None:
    guest = near(running)
    running.kill_daemon()
    use_up(guest)
    assert not guest.reaches(OUTSIDE)
    guest.reboot()
    assert not guest.reaches(OUTSIDE)
    running.start_daemon()
    assert until(lambda: blocked(running))
    assert used(running) <= LIMIT


def test_with_the_daemon_dead_all_its_vifs_share_the_allowance(running: Host) -> None:
    guest = near(running)
    running.kill_daemon()
    card = guest.attach("10.50.0.77")
    guest.finish(card)
    guest.namespace.ip(f"route replace {OUTSIDE} dev eth{card.devid}")
    use_up(guest)
    assert not guest.reaches(OUTSIDE)
    guest.namespace.ip(f"route replace {OUTSIDE} dev eth0")
    assert not guest.reaches(OUTSIDE)


def test_a_neighbour_is_not_refused(running: Host) -> None:
    guest, other = near(running), near(running, "web2", limit_bytes=10**12)
    use_up(guest)
    assert until(lambda: blocked(running))
    assert other.reaches(OUTSIDE)


def test_a_raise_is_followed_at_once_and_held_to_the_byte(running: Host) -> None:
    guest = near(running)
    use_up(guest)
    assert until(lambda: blocked(running))
    running.add("web1", limit_bytes=3 * LIMIT)
    running.ask("sync")
    assert guest.reaches(OUTSIDE)
    use_up(guest, 4)
    assert held_at(running, 3 * LIMIT)


def test_a_raise_before_the_line_moves_the_line(running: Host) -> None:
    guest = near(running)
    guest.send(BATCH)
    running.add("web1", limit_bytes=2 * LIMIT)
    running.ask("sync")
    running.kill_daemon()
    use_up(guest, 3)
    running.start_daemon()
    assert held_at(running, 2 * LIMIT)


def test_a_lowered_limit_is_held(running: Host) -> None:
    guest = near(running, limit_bytes=10 * LIMIT)
    running.add("web1", limit_bytes=LIMIT)
    running.ask("sync")
    running.kill_daemon()
    use_up(guest)
    running.start_daemon()
    assert held_at(running, LIMIT)


def test_a_lift_takes_the_tripwire_away(running: Host) -> None:
    guest = near(running)
    use_up(guest)
    assert until(lambda: blocked(running))
    running.xenbw("lift", "web1")
    running.ask("sync")
    assert guest.reaches(OUTSIDE)
    use_up(guest)
    assert state(running) is State.EXEMPT
    assert guest.reaches(OUTSIDE)


@pytest.mark.parametrize("count", [Count.IN, Count.OUT, Count.MAX])
def test_each_way_of_counting_is_held(running: Host, count: Count) -> None:
    guest = near(running, count=count)
    send = guest.send if count is not Count.IN else guest.receive
    for _ in range(2 * LIMIT // BATCH):
        send(BATCH)
    assert until(lambda: blocked(running))
    into, out = running.usage("web1")
    counted = {Count.IN: into, Count.OUT: out, Count.MAX: max(into, out)}[count]
    assert LIMIT - FRAME < counted <= LIMIT


def test_a_vm_that_is_only_warned_has_no_tripwire(running: Host) -> None:
    guest = near(running, action=Action.WARN)
    use_up(guest)
    assert until(lambda: state(running) is State.OVER)
    assert guest.reaches(OUTSIDE)
    assert used(running) > LIMIT


def test_it_is_throttled_by_the_kernel_alone(running: Host) -> None:
    guest = near(running, action=Action.THROTTLE, rate=8_000_000)
    running.kill_daemon()
    use_up(guest)
    assert guest.reaches(OUTSIDE)
    assert "limit t" in running.run(["nft", "list", "table", "netdev", "xenbw"]).stdout
    running.start_daemon()
    assert until(lambda: state(running) is State.THROTTLED)


def test_the_hard_limit_behind_a_throttle_is_held_by_the_kernel_alone(running: Host) -> None:
    guest = near(running, action=Action.THROTTLE, rate=80_000_000, hard_limit_bytes=2 * LIMIT)
    running.kill_daemon()
    use_up(guest, 3)
    assert not guest.reaches(OUTSIDE)
    running.start_daemon()
    assert held_at(running, 2 * LIMIT)


def test_flushed_rules_bring_the_tripwire_back(running: Host) -> None:
    guest = near(running)
    guest.send(BATCH)
    running.run(["nft", "flush", "ruleset"], check=True)
    assert until(lambda: "quota trip" in running.run(["nft", "list", "table", "netdev", "xenbw"]).stdout)
    running.ask("sync")
    running.kill_daemon()
    use_up(guest)
    running.start_daemon()
    assert held_at(running, LIMIT)


def test_flushed_rules_bring_all_tripwires_back_though_one_vm_is_far_past_its_allowance(running: Host) -> None:
    guest = near(running)
    near(running, "web2")
    guest.send(BATCH)
    running.add("web1", limit_bytes=BATCH // 2)
    running.ask("sync")
    assert until(lambda: blocked(running))
    running.run(["nft", "flush", "ruleset"], check=True)
    assert until(lambda: {"trip-total-1", "trip-total-2"} <= set(quotas(running).split()))


def test_a_raise_with_the_daemon_dead_is_exact(running: Host) -> None:
    guest = near(running)
    running.kill_daemon()
    use_up(guest)
    assert not guest.reaches(OUTSIDE)
    running.xenbw("addvm", "web1", "--limit", "2MB")
    use_up(guest, 3)
    running.start_daemon()
    assert held_at(running, 2 * LIMIT)


def test_what_the_kernel_refused_is_no_usage(running: Host) -> None:
    guest = near(running)
    use_up(guest, 4)
    assert until(lambda: blocked(running))
    assert used(running) <= LIMIT
    bindings = running.ledger().live_bindings().values()
    assert any(binding.counted.refused_out_bytes for binding in bindings)


def quotas(host: Host) -> str:
    return host.run(["nft", "list", "quotas", "table", "netdev", "xenbw"]).stdout


def test_a_removed_vm_is_no_longer_refused(running: Host) -> None:
    guest = near(running)
    use_up(guest)
    assert until(lambda: blocked(running))
    running.xenbw("rmvm", "web1", "--yes")
    assert until(lambda: guest.reaches(OUTSIDE))
    assert "quota" not in quotas(running)


def test_a_vm_whose_action_becomes_to_warn_is_no_longer_refused(running: Host) -> None:
    guest = near(running)
    use_up(guest)
    assert until(lambda: blocked(running))
    running.xenbw("addvm", "web1", "--action", "warn")
    assert until(lambda: guest.reaches(OUTSIDE))
    assert "quota" not in quotas(running)
    assert not blocked(running)


def test_another_meter_takes_the_tripwires_away_and_the_daemon_blocks(running: Host) -> None:
    guest = near(running)
    assert "quota trip" in quotas(running)
    running.configure('[meter]\nsource = "kernel"\n')
    assert running.daemon is not None
    running.daemon.send_signal(signal.SIGHUP)
    assert until(lambda: "quota" not in quotas(running))
    use_up(guest)
    assert until(lambda: blocked(running))
    running.configure("")
    running.daemon.send_signal(signal.SIGHUP)
    running.add("web1", limit_bytes=10 * LIMIT)
    assert until(lambda: "quota trip" in quotas(running))
    assert until(lambda: guest.reaches(OUTSIDE))


def test_a_throttle_given_after_a_block_lets_the_vm_go_on_at_its_rate(running: Host) -> None:
    guest = near(running)
    use_up(guest)
    assert until(lambda: blocked(running))
    running.xenbw("addvm", "web1", "--action", "throttle", "--rate", "8Mbit")
    assert until(lambda: state(running) is State.THROTTLED)
    assert until(lambda: guest.reaches(OUTSIDE))
    vm = running.ledger().vm_named("web1")
    assert vm is not None
    assert vm.action is Action.THROTTLE

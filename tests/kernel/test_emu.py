"""The emulated card of an HVM guest, with a real tap and Debian's real vif-bridge, is counted and blocked like the
guest's vif, for the same VM.

QEMU opens the tap, and closes it when the guest's drivers unplug the emulated card (hw/i386/xen/xen_platform.c). libxl
calls the vif script for the vif, and then for the tap with `add` and type_if=tap.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support.ears import Ear
from tests.support.frames import send_frames
from tests.support.guest import ETH_HLEN
from tests.support.host import Host, covered
from tests.support.pace import busy, until
from tests.support.story import LIMIT
from tests.support.taps import FRAME, Hvm
from xenbw.ledger import viflog
from xenbw.model import Binding, Kind

pytestmark = pytest.mark.kernel

EVERY, NONE = (20, 20), (0, 0)


@pytest.fixture
def vm(running: Host) -> Iterator[Hvm]:
    """web1, a running HVM guest."""
    with Hvm(running) as machine:
        yield machine


def passed(host: Host, vm: Hvm) -> tuple[int, int]:
    """How many of twenty frames pass the emulated card: to the guest, and from it."""
    vm.tap.read()
    out, back = vm.request, vm.answer
    heard = got = 0
    with Ear(host.outside) as ear:
        # From the guest's frames the bridge learns behind which of the two cards its MAC is.
        vm.tap.write([out] * 20)
        send_frames(host.outside, "eth0", [back] * 20)
        limit = time.monotonic() + busy(0.5)
        while (got, heard) != EVERY and time.monotonic() < limit:
            heard += sum(one.frame == out for one in ear.heard())
            got += vm.tap.read().count(back)
            time.sleep(0.01)
    return got, heard


def over(host: Host, vm: Hvm) -> None:
    """The guest uses up its allowance through the emulated card alone, and is blocked."""
    host.add("web1", limit_bytes=LIMIT)
    host.ask("sync")
    vm.tap.write([vm.request] * (LIMIT // (FRAME - ETH_HLEN) + 1))
    assert until(lambda: host.blocked(vm.guest.address()))


def raise_links(host: Host, vm: Hvm) -> None:
    """Set the interfaces of both cards up in dom0, and take the drops by tc from them."""
    host.raise_links(vm.guest)
    host.undrop(vm.interface)
    host.namespace.ip(f"link set {vm.interface} up")
    assert until(lambda: host.run(["cat", f"/sys/class/net/{vm.interface}/brport/state"]).stdout == "3\n")


def newest(host: Host, kind: Kind) -> Binding:
    """The newest binding of the guest's card of that kind."""
    host.ask("commit")
    return max((one for one in viflog.latest(host.ledger()) if one.kind is kind), key=lambda one: one.ifindex)


# counting


def test_the_hook_leaves_a_binding_for_the_tap_beside_the_vifs(vm: Hvm, running: Host) -> None:
    emulated, vif = newest(running, Kind.EMU), newest(running, Kind.VIF)
    assert (emulated.interface, vif.interface) == ("vif1.0-emu", "vif1.0")
    assert (emulated.vm_id, emulated.mac, emulated.ips, emulated.bridge) == (vif.vm_id, vif.mac, vif.ips, "xenbr0")
    assert [(run.returncode, run.stdout, run.stderr) for run in vm.scripts] == [(0, "", "")]


def test_traffic_of_the_emulated_card_is_counted_to_the_byte(vm: Hvm, running: Host) -> None:
    vm.guest.namespace.ip("link set eth0 down")  # the guest has no PV drivers
    assert until(lambda: running.usage("web1") == vm.total())
    before = running.usage("web1")
    assert passed(running, vm) == EVERY
    assert until(lambda: running.usage("web1") == vm.total())
    after = running.usage("web1")
    assert after.out_bytes - before.out_bytes == 20 * (FRAME - ETH_HLEN)
    # The bridge may have sent multicasts meanwhile (IGMP).
    assert 0 <= after.in_bytes - before.in_bytes - 20 * FRAME < FRAME


def test_a_guest_that_uses_both_cards_pays_for_each_frame_once(vm: Hvm, running: Host) -> None:
    for _ in range(2):
        assert passed(running, vm) == EVERY
        assert vm.guest.send(50_000) == 50_000
        assert vm.guest.receive(20_000) == 20_000
    assert until(lambda: running.usage("web1") == vm.total())
    assert newest(running, Kind.EMU).counted.usage == vm.tap.counted
    assert newest(running, Kind.VIF).counted.usage == vm.guest.counters()


def test_counting_goes_on_when_a_tap_is_renamed_with_its_vif(running: Host) -> None:
    with Hvm(running, vifname="web1.lan") as vm:
        assert newest(running, Kind.EMU).interface == "web1.lan-emu"
        assert passed(running, vm) == EVERY
        assert until(lambda: running.usage("web1") == vm.total())
        over(running, vm)
        running.kill_daemon()
        raise_links(running, vm)
        assert passed(running, vm) == NONE


def test_a_crash_of_the_daemon_neither_loses_nor_repeats_a_byte_of_the_tap(vm: Hvm, running: Host) -> None:
    assert passed(running, vm) == EVERY
    running.kill_daemon()
    assert passed(running, vm) == EVERY
    running.start_daemon()
    assert passed(running, vm) == EVERY
    assert until(lambda: running.usage("web1") == vm.total())


def test_an_unplugged_emulated_card_is_counted_to_its_last_byte_and_the_vif_is_metered_on(
    vm: Hvm, running: Host
) -> None:
    assert until(lambda: running.usage("web1") == vm.total())
    assert passed(running, vm) == EVERY
    vm.tap.write([vm.request] * 30)
    vm.tap.close()
    counted = vm.tap.counted
    assert until(lambda: running.usage("web1") == vm.guest.counters().plus(counted))
    assert until(lambda: newest(running, Kind.EMU).end_reason == "vanished")
    assert newest(running, Kind.EMU).counted.usage == counted
    assert vm.guest.send(50_000) == 50_000
    assert until(lambda: running.usage("web1") == vm.guest.counters().plus(counted))
    assert newest(running, Kind.VIF).counted.usage == vm.guest.counters()


def test_a_tap_without_a_hook_call_is_found_and_counted(vm: Hvm, running: Host) -> None:
    assert until(lambda: running.usage("web1") == vm.total())
    earlier = vm.tap
    vm.replug()
    assert until(lambda: covered(running, vm.interface))
    assert passed(running, vm) == EVERY
    assert until(lambda: running.usage("web1") == vm.total().plus(earlier.counted))
    assert newest(running, Kind.EMU).counted.usage == vm.tap.counted


# blocking


def test_when_the_emulated_card_uses_up_the_allowance_both_cards_are_sealed(vm: Hvm, running: Host) -> None:
    assert passed(running, vm) == EVERY
    over(running, vm)
    assert until(lambda: running.drops(vm.interface) and running.drops(vm.guest.interface))
    assert passed(running, vm) == NONE
    assert (vm.guest.send(10_000), vm.guest.receive(10_000)) == (0, 0)


def test_the_seal_holds_when_the_drops_by_tc_are_gone(vm: Hvm, running: Host) -> None:
    over(running, vm)
    running.kill_daemon()
    raise_links(running, vm)
    assert passed(running, vm) == NONE
    assert (vm.guest.send(10_000), vm.guest.receive(10_000)) == (0, 0)


def test_traffic_that_the_seal_refuses_is_not_usage(vm: Hvm, running: Host) -> None:
    over(running, vm)
    used = running.usage("web1")

    def refused() -> bool:
        vm.tap.write([vm.request] * 20)
        return newest(running, Kind.EMU).counted.refused_out_bytes > 0

    assert until(refused)
    assert running.usage("web1") == used


def test_the_drops_by_tc_hold_with_every_rule_flushed_and_the_daemon_dead(vm: Hvm, running: Host) -> None:
    over(running, vm)
    assert until(lambda: running.drops(vm.interface))
    running.kill_daemon()
    for argv in (["nft", "flush", "ruleset"], ["iptables-legacy", "-F"]):
        running.run(argv, check=True)
    assert passed(running, vm) == NONE


def test_a_release_opens_the_emulated_card_again(vm: Hvm, running: Host) -> None:
    over(running, vm)
    running.xenbw("lift", "web1")
    assert until(lambda: not running.drops(vm.interface))
    assert until(lambda: passed(running, vm) == EVERY)
    assert until(lambda: running.usage("web1").plus(running.refused("web1")) == vm.total())


@pytest.mark.parametrize("daemon", ["alive", "dead"])
def test_a_vm_that_restarts_while_over_has_its_new_tap_sealed_from_the_first_frame(
    vm: Hvm, running: Host, daemon: str
) -> None:
    over(running, vm)
    if daemon == "dead":
        running.kill_daemon()
    vm.restart()
    assert vm.guest.domid == 2
    assert passed(running, vm) == NONE
    assert until(lambda: running.drops(vm.interface))
    running.kill_daemon()
    raise_links(running, vm)
    assert passed(running, vm) == NONE


def test_a_tap_without_a_hook_call_is_sealed_while_its_vm_is_over(vm: Hvm, running: Host) -> None:
    over(running, vm)
    vm.replug()
    assert until(lambda: covered(running, vm.interface) and running.drops(vm.interface))
    assert passed(running, vm) == NONE
    running.kill_daemon()
    raise_links(running, vm)
    assert passed(running, vm) == NONE

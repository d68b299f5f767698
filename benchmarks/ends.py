"""Bytes lost when guests end, 50 times with traffic right up to the end: by xenbw's meter and vnStat's, compared with a
capture on the guests' own cards."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import cycle

from benchmarks.figure import Figure
from benchmarks.rig import Rig
from benchmarks.vnstat import INTERVAL, VnStat
from tests.support.dom0 import BRIDGE
from tests.support.guest import Card, Guest
from tests.support.pace import until
from xenbw.ledger import viflog
from xenbw.model import Counters

_GUESTS = 15
_ROUNDS = 50
_ROUND = 0.8  # seconds; ending and starting a guest takes a third of it
_BURST = 7000  # bytes of each guest, in each direction, in each round
_EVER = datetime.min.replace(tzinfo=UTC)
_ENDS = (Guest.destroy, Guest.stop, Guest.reboot)


def measure() -> list[Figure]:
    with Rig() as rig:
        rig.hook_env["XENBW_HOOK_TIMEOUT"] = "30"  # a hook that times out would miss the first packets
        rig.start_daemon()
        peer = VnStat(rig)
        begin = time.monotonic()
        passed = _live_and_die(rig)
        seconds = (time.monotonic() - begin) * _GUESTS / (_ROUNDS + _GUESTS)
        own = _counted(rig)
        peer.stop()
        theirs = peer.counted()
    total = passed.in_bytes + passed.out_bytes
    lost, lost_by_peer = total - own, total - theirs.in_bytes - theirs.out_bytes
    vnstat = f"vnStat's, at {INTERVAL} s"
    share = lost_by_peer / total * 100
    return [
        Figure(f"bytes that passed in lives of {seconds:.1f} s", total / 1e6, "MB"),
        Figure(f"of them lost at {_ROUNDS} ends", lost, "B", 0, (vnstat, lost_by_peer)),
        Figure("  as a share of all", lost / total * 100, "%", 0, (vnstat, share)),
        Figure("  as seconds of a life's traffic", lost / total * seconds, "s", 0, (vnstat, share / 100 * seconds)),
    ]


def _live_and_die(rig: Rig) -> Counters:
    """Let guests live side by side, each with traffic all the time. One after the other ends with traffic right up to
    its end, and starts again; then all end. Returns the bytes that passed their cards."""
    guests = [_weighed(rig, n) for n in range(1, _GUESTS + 1)]
    total = Counters(0, 0)
    for guest, end, _ in zip(cycle(guests), cycle(_ENDS), range(_ROUNDS), strict=False):
        begin = time.monotonic()
        for each in guests:
            _talk(each)
        time.sleep(max(0.0, _ROUND / 2 - (time.monotonic() - begin)))
        total = total.plus(_end(rig, guest, end))
        if not guest.running:
            guest.start()
        time.sleep(max(0.0, _ROUND - (time.monotonic() - begin)))
    for guest in guests:
        _talk(guest)
        total = total.plus(_end(rig, guest, Guest.destroy))
    return total


def _talk(guest: Guest) -> None:
    guest.send(_BURST)
    guest.receive(_BURST)


def _end(rig: Rig, guest: Guest, end: Callable[[Guest], None]) -> Counters:
    """End a guest right after its last packet. Returns the bytes that passed its card in this life."""
    scales = guest.scales
    if scales is None:
        raise RuntimeError(f"{guest.name} is not weighed")
    _talk(guest)
    if end is not Guest.destroy:
        # Otherwise dom0's own multicasts to a card that the guest has just set down would count.
        rig.namespace.ip(f"link set {guest.interface} down")
    end(guest)
    return scales.total()


def _weighed(rig: Rig, n: int) -> Guest:
    """A guest with a capture on its card from the first packet on."""
    card = Card(0, f"00:16:3e:50:00:{n:02x}", (f"10.50.0.{10 + n}",), (), BRIDGE, None, "vif-bridge")
    guest = Guest(rig, f"web{n}", str(uuid.uuid4()), [card])
    guest.weighed = True
    guest.start()
    return guest


def _counted(rig: Rig) -> int:
    """The bytes that xenbw counted of all guests, floods included as in the capture, once the last guest is
    credited."""
    if not until(lambda: not rig.ledger.live_bindings()):
        raise RuntimeError("xenbwd does not settle")
    rig.ask("commit")
    lives = [life for vm_id in rig.ledger.vms() for life in viflog.of_vm(rig.ledger, vm_id, _EVER)]
    return sum(sum(life.counted.everything) for life in lives)

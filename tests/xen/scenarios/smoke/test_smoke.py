"""Two VMs from start to end: metered, over the allowance, blocked, restarted, released, charged to the last byte."""

from __future__ import annotations

from rig import guest, outside, package, park
from rig.guest import Guest, Usage
from rig.pace import until
from rig.park import Pair
from rig.scales import Scales

_MB = 1_000_000
_OTHERS = ("10.77.0.1", "10.77.0.2", "fd77::2")


def test_a_guest_is_metered_blocked_kept_blocked_and_released(pair: Pair) -> None:
    web = pair.web
    # The guest is metered to the byte.
    web.download(2, "10.77.0.2")
    used = package.settled(web)
    assert used.in_bytes > 2 * _MB
    # The guest goes over its allowance, and is blocked.
    package.allow("web1", f"{used.in_bytes + used.out_bytes + _MB}B")
    web.run("for n in 1 2 3; do wget -q -O /dev/null http://10.77.0.2/1M; done >/dev/null 2>&1 &")
    assert until(lambda: package.state("web1") == "over")
    assert web.silent(*_OTHERS)
    assert pair.db.pings("10.77.0.2")
    # The guest is restarted, and no frame of it passes.
    web.destroy()
    since, before = outside.mark(), package.usage("web1")
    web.create()
    web.run("while pidof ping; do sleep 0.2; done")
    assert web.counters().out_bytes > 1000
    assert outside.frames(since, web) == []
    assert web.silent(*_OTHERS)
    assert package.usage("web1") == before
    # The allowance is raised, and the guest is released.
    package.release("web1")
    assert until(lambda: web.pings("10.77.0.2", "fd77::2"))
    assert until(lambda: package.status()["problems"] == [])


def test_a_guest_that_is_destroyed_while_it_sends_is_charged_to_its_last_byte(xenbw: None) -> None:
    # The guest talked only to the host outside, which counts its bytes.
    last = park.numbered("last", 14)
    last.create()
    last.run("while pidof ping; do sleep 0.2; done")
    with Scales([last]) as scales:
        told, base = _at_rest(last, scales)
        last.run("(ping -i 0.05 -s 900 10.77.0.2 >/dev/null 2>&1) & sleep 4")
        last.destroy()
        sent = (scales.total(last) - base).out_bytes
    assert sent > 20_000
    assert until(lambda: all(life["ended_at"] for life in package.show("last")["bindings"]))
    assert until(lambda: package.usage("last").out_bytes - told.out_bytes == sent), (package.usage("last"), told, sent)
    guest.forget(last)


def _at_rest(one: Guest, scales: Scales) -> tuple[Usage, Usage]:
    """A VM's usage, and its bytes that the host outside counted, while it sent nothing.

    Linux asks for IPv6 routers now and then, so the guest may send between the two readings.
    """
    while True:
        before, used, counted = scales.total(one), package.settled(one), scales.total(one)
        if counted.out_bytes == before.out_bytes:
            return used, counted

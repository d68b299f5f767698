"""A VM's real traffic passes the thresholds of its allowance: each is told once, also across restarts of the daemon."""

from __future__ import annotations

import pytest

from tests.support.host import Host
from tests.support.pace import at_last, until
from tests.support.story import LIMIT
from xenbw.ledger import eventlog
from xenbw.model import State

pytestmark = pytest.mark.kernel

OUTSIDE = "10.50.0.2"


def told(host: Host) -> list[str]:
    """What happened to VMs, oldest first: "past 50 %", or the kind of the event."""
    events = [(kind, text) for _, kind, text in reversed(eventlog.newest(host.ledger(), 50))]
    return [
        text.rpartition(": ")[2] if kind == "warned" else kind
        for kind, text in events
        if kind in ("warned", "over", "null-routed", "released")
    ]


def restart(host: Host) -> None:
    host.stop_daemon()
    host.start_daemon()
    host.kill_daemon()
    host.start_daemon()


def test_each_threshold_is_told_once_and_after_a_raise_again_also_across_restarts(running: Host) -> None:
    guest = running.start("web1")
    running.xenbw("addvm", "web1", "--limit", "1MB", "--warn", "50,75,100")
    assert guest.reaches(OUTSIDE)
    assert told(running) == []
    guest.send(550_000)
    assert at_last(lambda: told(running), ["past 50 %"]) == ["past 50 %"]
    restart(running)
    guest.send(50_000)
    assert until(lambda: running.usage("web1").out_bytes > 600_000)
    assert told(running) == ["past 50 %"]
    running.kill_daemon()
    guest.send(200_000)  # it passes 75 % with the daemon dead
    running.start_daemon()
    before = ["past 50 %", "past 75 %"]
    assert at_last(lambda: told(running), before) == before
    restart(running)
    assert told(running) == before
    running.xenbw("addvm", "web1", "--limit", "1.2MB")  # between 50 and 75 %
    restart(running)
    assert running.show("web1")["state"] == State.WARNED
    assert told(running) == before
    guest.send(150_000)
    before.append("past 75 %")
    assert at_last(lambda: told(running), before) == before
    guest.send(LIMIT)
    before.append("null-routed")
    assert at_last(lambda: told(running), before) == before
    restart(running)
    assert running.blocked(guest.address())
    assert told(running) == before

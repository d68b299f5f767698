"""The start of many stories: a VM that has used more than its allowance."""

from __future__ import annotations

from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import until

LIMIT = 1_000_000


def overdrawn(host: Host, name: str = "web1", **start: object) -> Guest:
    """A running VM that has used up its allowance and is blocked."""
    guest = host.start(name, **start)  # type: ignore[arg-type]
    host.add(name, limit_bytes=LIMIT)
    host.ask("sync")
    # Now it knows its neighbours: while ARP is unanswered only a few packets wait, and the others are dropped.
    assert guest.reaches("10.50.0.2")
    guest.send(LIMIT)
    assert until(lambda: host.blocked(guest.address()))
    return guest

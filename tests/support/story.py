"""The starts of many stories: a VM over its allowance, and a bridge whose frames iptables does not see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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


@contextmanager
def plain_bridge() -> Iterator[Host]:
    """A host with its daemon, whose bridge iptables does not see, with db1 on the bridge."""
    with Host() as machine:
        machine.start_daemon()
        machine.run(["sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=0"], check=True)
        machine.start("db1")
        yield machine

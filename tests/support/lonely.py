"""The work of a daemon on a host that has no guests: no interface, no xenstored, and stand-ins for the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.books import BOOT
from tests.support.clock import HandClock
from tests.support.guarded import MethodStandIn
from xenbw.config import Settings
from xenbw.daemon.cycle import Work
from xenbw.ledger.ledger import Ledger
from xenbw.runner import Result
from xenbw.vifs import interfaces
from xenbw.xen.xenstore import Lookup


def no_answer(_argv: object, **_options: object) -> Result:
    """A runner for a host without addresses, routes or guests."""
    return Result(0, b"", b"")


@contextmanager
def started(
    settings: Settings, ledger: Ledger, clock: HandClock, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Work]:
    """The work, after the daemon's start. The host's network is an empty folder in `folder`."""
    (folder / "net").mkdir()
    kernel = iter([MethodStandIn("iptables"), MethodStandIn("ip6tables")])
    monkeypatch.setattr("xenbw.blocks.iptables.Iptables", lambda _version: next(kernel))
    monkeypatch.setattr(interfaces, "bridge_filtered", lambda _version: True)
    with closing(Lookup(str(folder / "no-xenstored"))) as lookup:
        work = Work(settings, ledger, lookup, clock, clock.vouches, BOOT, no_answer, lambda _: False, folder / "net")
        work.enforce()
        work.start()
        yield work

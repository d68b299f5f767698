"""An interface that gets another binding goes on from its last reading: no byte is charged to two VMs."""

from __future__ import annotations

from pathlib import Path

from tests.support.books import open_ledger
from tests.support.clock import utc
from xenbw.accounting import Pending
from xenbw.ledger import usagelog, viflog
from xenbw.ledger.bindings import NewBinding
from xenbw.ledger.ledger import Alive
from xenbw.model import Amounts, Counters, Mark

NOW = utc("2026-03-20 12:00")
FACTS = {"boot_id": "boot", "domid": 7, "devid": 0, "kind": "vif", "ifindex": 9, "interface": "vif7.0"}


def test_any_commit_moves_the_mark_of_the_binding_that_follows(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path)
    old = viflog.bind(ledger, NOW, NewBinding(name="web1", **FACTS))
    # The CLI removes the VM, and the vif is bound to a new one, before the daemon has committed.
    viflog.end(ledger, old, NOW, "removed")
    new = viflog.bind(ledger, NOW, NewBinding(name="web1-again", **FACTS))
    mark = Mark(Counters(1000, 2000), Amounts(1000, 2000))
    usagelog.commit(ledger, Pending(((old, Amounts(1000, 2000), mark, NOW),), ()), Alive(NOW, 1.0, "boot"))
    assert ledger.live_bindings()[new].mark == mark
    ledger.close()

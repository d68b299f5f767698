"""A running host with the ledger of an earlier version: blocks stay, whether the ledger can be upgraded or not."""

from __future__ import annotations

import sys

import pytest

from tests.support import oldledger
from tests.support.host import REPO, Host
from tests.support.pace import until

pytestmark = pytest.mark.kernel

MAKE = """
import sqlite3, sys
from pathlib import Path
from tests.support.oldledger import make_schema1
with sqlite3.connect(make_schema1(Path(sys.argv[1]))) as db:
    db.execute("UPDATE vm SET blocked_reason = 'unpaid' WHERE name = 'web1'")
"""


def make_old_ledger(host: Host) -> None:
    """A ledger of version 0.1.0, in which web1 is blocked."""
    host.run([sys.executable, "-c", MAKE, str(host.ledger_path)], env={"PYTHONPATH": str(REPO)}, check=True)


def test_a_hook_blocks_by_an_older_ledger_and_does_not_upgrade_it(host: Host) -> None:
    make_old_ledger(host)
    host.start("web1", ["10.50.0.11"])
    assert host.blocked("10.50.0.11")
    assert oldledger.version(host.ledger_path) == 1
    rows = oldledger.rows(host.ledger_path)
    assert rows["binding"][-1]["ips"] == "10.50.0.11"


def test_the_daemon_upgrades_the_ledger_while_the_blocks_hold(host: Host) -> None:
    make_old_ledger(host)
    before = oldledger.rows(host.ledger_path)
    host.start("web1", ["10.50.0.11"])
    env = {"PYTHONPATH": str(REPO), "NOTIFY_SOCKET": str(host.directory / "notify")}
    host.popen([sys.executable, "-m", "xenbw.daemon", "--config", str(host.config)], output=host.log, env=env)
    # A long copy of the ledger does not exceed systemd's time for a start.
    assert "EXTEND_TIMEOUT_USEC=10000000" in host.notified("READY=1")
    assert host.blocked("10.50.0.11")
    assert oldledger.version(host.ledger_path) > 1
    copy = host.ledger_path.with_name("ledger.db.schema1")
    assert oldledger.rows(copy)["usage"] == before["usage"]


def test_a_daemon_without_room_for_the_copy_exits_with_the_reason_and_the_blocks_stay(host: Host) -> None:
    host.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(host.state)], check=True)
    make_old_ledger(host)
    host.run(["fallocate", "-l", "10m", f"{host.state}/filler"], check=True)
    host.start("web1", ["10.50.0.11"])
    for _ in range(2):
        argv = [sys.executable, "-m", "xenbw.daemon", "--config", str(host.config)]
        daemon = host.popen(argv, output=host.log, env={"PYTHONPATH": str(REPO)})
        assert daemon.wait(20) == 1
        assert "no room for the copy that is made before its upgrade" in host.log.read_text()
        assert host.blocked("10.50.0.11")
    host.start("web1", ["10.50.0.12"])
    assert host.blocked("10.50.0.12")
    host.run(["rm", f"{host.state}/filler"], check=True)
    host.start_daemon()
    assert until(lambda: host.ask("status")["blocked"] == 1)
    assert host.blocked("10.50.0.12")

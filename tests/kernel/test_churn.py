"""Guests that start and stop all the time: every byte is charged, rows and log lines are few, the daemon keeps up."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.host import Host
from tests.support.pace import until
from xenbw.clock import boot_id
from xenbw.ledger import viflog
from xenbw.ledger.bindings import NewBinding
from xenbw.ledger.digests import KEPT
from xenbw.model import ZERO

pytestmark = pytest.mark.kernel

LIVES = 30
# Seconds; the daemon looks at every interface once a minute.
_LOOKS_BACK = 90.0


def rebooted_unseen(host: Host, times: int) -> None:
    """web1 rebooted so often this month, without traffic and without a running daemon."""
    ledger, now = host.ledger(), datetime.now(UTC)
    facts: dict[str, Any] = {"boot_id": boot_id(), "devid": 0, "kind": "vif", "ips": "10.50.0.11"}
    with ledger.transaction():
        for number in range(times):
            ifindex = 900_000 + number  # the ifindex of no existing interface
            known = {**facts, "domid": 500 + number, "ifindex": ifindex, "interface": f"vif{500 + number}.0"}
            viflog.end(ledger, viflog.bind(ledger, now, NewBinding(name="web1", **known)), now, "offline")


def rows(host: Host) -> int:
    """How many bindings of web1 have a row in the ledger."""
    return int(host.ledger().rows("SELECT count(*) FROM binding")[0][0])


def test_a_guest_in_a_reboot_loop_is_charged_every_byte_and_leaves_few_rows_and_log_lines(host: Host) -> None:
    rebooted_unseen(host, KEPT - LIVES // 2)
    host.start_daemon()
    guest = host.start("web1")
    passed = ZERO
    for _ in range(LIVES):
        guest.send(20_000)
        passed = passed.plus(host.quiet(guest))
        guest.reboot()
    passed = passed.plus(host.quiet(guest))
    assert until(lambda: rows(host) == KEPT + 1, _LOOKS_BACK)
    document = json.loads(host.xenbw("explain", "web1", "--json").stdout)
    assert host.usage("web1") == passed
    for way, much in zip(("in_bytes", "out_bytes"), passed, strict=True):
        assert sum(part[way] for part in document["parts"]) == document[way] == much
    lives = [part["lives"] for part in document["parts"]]
    assert (len(lives), sum(lives)) == (KEPT + 2, KEPT - LIVES // 2 + 1 + LIVES)
    told = [line for line in host.log.read_text().splitlines() if line.startswith("web1")]
    assert [line.partition(" times ")[2] for line in told] == [
        "in the last 10 minutes; logged every 10 minutes while that lasts"
    ]


def test_lives_that_the_daemon_never_saw_are_charged_before_they_are_folded(running: Host) -> None:
    running.stop_daemon()
    guest = running.start("web1")
    passed = ZERO
    for _ in range(3):
        guest.send(20_000)
        passed = passed.plus(running.quiet(guest))
        guest.reboot()
    passed = passed.plus(running.quiet(guest))
    guest.destroy()
    rebooted_unseen(running, KEPT)
    running.start_daemon()
    assert until(lambda: rows(running) == KEPT, _LOOKS_BACK)
    assert running.usage("web1") == passed
    document = json.loads(running.xenbw("explain", "web1", "--json").stdout)
    assert (document["parts"][0]["lives"], document["parts"][0]["in_bytes"]) == (4, passed.in_bytes)


@pytest.mark.alone
def test_a_burst_of_pokes_causes_few_reloads_and_its_guest_is_known_within_a_second(
    running: Host,
) -> None:
    ledger = running.ledger()
    before, begun = ledger.meta("rev"), time.monotonic()
    for _ in range(100):
        running.ask("poke")
        time.sleep(0.005)
    # Each reload is a commit; others come each second, and for other work.
    assert ledger.meta("rev") - before < 5 * (time.monotonic() - begun) + 10
    guest = running.start("web1")
    assert until(lambda: running.ask("status")["interfaces"] == 1, 1.0)
    assert guest.running

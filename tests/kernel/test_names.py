"""VM names from a guest's config to the command line: unchanged, and of VMs only."""

from __future__ import annotations

import json

import pytest

from tests.support.host import Host
from tests.support.pace import until

pytestmark = pytest.mark.kernel

ADDRESS = "10.50.0.11"


def test_all_running_domains_except_helper_domains_are_listed_as_vms(running: Host) -> None:
    store, guest = running.store, running.start("web1", (ADDRESS,))
    running.start("mail-dm", ("10.50.0.12",))
    store.write_all({"/local/domain/90/target": str(guest.domid)})
    running.start("web1-dm", (ADDRESS,), domid=90)
    for domid, name in ((70, "Xenstore"), (71, "netdrv"), (72, "crashed-20260801T0840Z"), (73, "Xenstore2")):
        store.write_all({f"/local/domain/{domid}/name": name, f"/local/domain/{domid}/memory/target": "65536"})
    store.write_all({"/tool/xenstored/domid": "70", "/local/domain/71/libxl": "", "/local/domain/72/vm": "/vm/7-2"})
    done = running.xenbw("addvm", "--all", "--limit", "5GB")
    assert {line.partition(": added")[0] for line in done.stdout.splitlines() if ": added" in line} == {
        "web1",
        "mail-dm",
        "Xenstore2",
    }


def test_names_that_differ_by_blanks_at_their_ends_are_two_vms(running: Host) -> None:
    first, second = running.start("n10", (ADDRESS,)), running.start("n10 ", ("10.50.0.12",))
    running.xenbw("addvm", "n10 ", "--limit", "5GB")
    running.xenbw("block", "n10 ", "--reason", "unpaid")
    assert until(lambda: running.blocked("10.50.0.12"))
    assert not second.ping("10.50.0.2")
    assert first.ping("10.50.0.2", timeout=2)
    limits = {vm["name"]: vm["limit_bytes"] for vm in json.loads(running.xenbw("list", "--json").stdout)["vms"]}
    assert limits == {"n10": None, "n10 ": 5 * 10**9}
    assert {line.split("  ")[0] for line in running.xenbw("list").stdout.splitlines()} >= {"n10 *", "'n10 '"}


def test_an_allowance_for_a_name_typed_without_its_blank_is_given_to_the_vm_with_the_blank(running: Host) -> None:
    guest = running.start("n10 ", (ADDRESS,))
    running.xenbw("addvm", "n10", "--limit", "10KB")
    guest.send(30_000)
    assert until(lambda: running.blocked(ADDRESS))
    assert not guest.ping("10.50.0.2")
    assert [vm.name for vm in running.ledger().vms().values()] == ["n10 "]
    assert running.show("n10")["name"] == "n10 "

"""What tenants read about their VM in xenstore, from inside the guests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rig import package, shell, xenstore
from rig.guest import Guest
from rig.pace import until
from rig.park import Pair

_NODES = ("used", "limit", "state", "until", "updated")


@pytest.fixture(scope="module", autouse=True)
def added(pair: Pair) -> Iterator[None]:
    """Both guests have an allowance that they are far from, and their nodes are there."""
    for guest in (pair.web, pair.db):
        package.allow(guest.name, "1TB")
    assert until(lambda: all(_read(guest, "state") == "ok" for guest in (pair.web, pair.db)))
    yield
    for guest in (pair.web, pair.db):
        package.allow(guest.name, "unlimited")


def _read(guest: Guest, node: str) -> str | None:
    """A node as the guest itself reads it; None: it cannot."""
    answer = guest.run(f"xenstore-read xenbw/{node}")
    return answer.output.strip() if answer.status == 0 else None


def test_a_guest_reads_its_own_nodes(web: Guest) -> None:
    assert _read(web, "limit") == "1000000000000"
    used = int(_read(web, "used") or "")
    web.download(3)
    assert until(lambda: int(_read(web, "used") or "") >= used + 3_000_000)
    assert all((_read(web, node) or "").endswith("Z") for node in ("until", "updated"))


@pytest.mark.parametrize(
    "attempt",
    [
        "xenstore-write xenbw/state free",
        "xenstore-write xenbw/more 1",
        "xenstore-rm xenbw/state",
        "xenstore-rm xenbw",
        "xenstore-chmod xenbw/state b0",
        "xenstore-write xenbw2 1",
    ],
)
def test_a_guest_cannot_change_its_nodes(web: Guest, attempt: str) -> None:
    assert web.run(attempt).status != 0
    assert _read(web, "state") == "ok"


def test_a_guest_cannot_read_another_guests_nodes(web: Guest, db: Guest) -> None:
    for node in _NODES:
        path = f"/local/domain/{db.domid}/xenbw/{node}"
        assert xenstore.read(path) is not None
        assert web.run(f"xenstore-read {path}").status != 0


def test_a_blocked_guest_reads_that_it_is_blocked(web: Guest) -> None:
    shell.run("xenbw", "block", "web1")
    assert until(lambda: (_read(web, "state"), _read(web, "until")) == ("blocked", "none"))
    shell.run("xenbw", "lift", "web1")
    assert until(lambda: _read(web, "state") == "ok")


def test_a_guest_over_its_allowance_reads_until_when_it_is_blocked(web: Guest) -> None:
    package.send_over("web1")
    assert until(lambda: (_read(web, "state"), _read(web, "limit")) == ("over", "1000"))
    assert _read(web, "until") == package.show("web1")["period_end"]
    package.allow("web1", "1TB")
    assert until(lambda: _read(web, "state") == "ok")


def test_the_nodes_are_gone_with_the_vm_and_with_the_domain(web: Guest, db: Guest) -> None:
    domid = db.domid
    package.xenbw("rmvm", "db1", "--yes")
    assert until(lambda: xenstore.read(f"/local/domain/{domid}/xenbw/state") is None)
    assert _read(db, "state") is None
    package.allow("db1", "1TB")
    assert until(lambda: _read(db, "state") == "ok")
    for guest in (web, db):
        domid = guest.domid
        guest.destroy()
        assert xenstore.read(f"/local/domain/{domid}/xenbw/state") is None
        assert xenstore.read(f"/local/domain/{domid}") is None
        # What passed while db1 was removed counts for nobody, so the next module needs a new life of it.
        guest.create()
        assert until(lambda guest=guest: _read(guest, "state") == "ok")

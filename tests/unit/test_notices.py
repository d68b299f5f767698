"""What a guest reads in xenstore: the values, the nodes and their permissions, and that nothing waits for xenstored."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.clock import utc
from tests.support.pace import busy, until
from tests.support.xenstored import Op, Xenstored
from xenbw.model import VM, Allowance, Count, Counters, Entry, Period, State
from xenbw.report import notice
from xenbw.xen.changes import Changer, Transaction
from xenbw.xen.notices import Notice, Notices, put
from xenbw.xen.wire import RefusedError

NOW = utc("2026-11-20 12:00")
PERIOD = Period(utc("2026-11-01 00:00"), utc("2026-12-01 00:00"))
HOME = "/local/domain/7"
VALUES = {"used": "5", "limit": "none", "state": "ok", "until": "2026-12-01T00:00:00Z", "updated": "now"}
WEB1 = Notice("web1", VALUES)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Xenstored]:
    with Xenstored(tmp_path / "socket") as running:
        running.write_all({f"{HOME}/name": "web1", f"{HOME}/vm": "/vm/u7"})
        # As libxl makes them: the guest may read its home, and owns some folders in it.
        running.tree.set_perms(HOME.encode(), (b"n0", b"r7"))
        yield running


@pytest.fixture
def notices(server: Xenstored) -> Iterator[Notices]:
    with closing(Notices(str(server.path), timeout=0.5, pause=0.05)) as writing:
        yield writing


def change(server: Xenstored, work: Callable[[Transaction], None]) -> None:
    changer = Changer(str(server.path), time.monotonic() + 5)
    try:
        changer.change(work, time.monotonic() + 5)
    finally:
        changer.close()


def nodes(server: Xenstored) -> dict[str, str | None]:
    return {name: server.read(f"{HOME}/xenbw/{name}") for name in server.list(f"{HOME}/xenbw")}


def permissions(server: Xenstored) -> set[tuple[bytes, ...]]:
    """The permissions of the folder and of all nodes in it."""
    folder = server.tree.node(f"{HOME}/xenbw".encode())
    return {folder.perms, *(child.perms for child in folder.children.values())}


def entry(**allowance: object) -> Entry:
    vm = VM(1, "web1", NOW, added_at=NOW)
    return Entry(vm, Allowance(**allowance), True, PERIOD)  # type: ignore[arg-type]  # test shorthand


# the values


def test_the_values_are_plain_numbers_of_bytes_a_state_and_times_in_utc() -> None:
    assert notice.values(entry(limit_bytes=500), Counters(30, 12), NOW) == {
        "used": "42",
        "limit": "500",
        "state": "ok",
        "until": "2026-12-01T00:00:00Z",
        "updated": "2026-11-20T12:00:00Z",
    }


def test_used_is_what_the_allowance_counts_on_all_hosts() -> None:
    shared = replace(entry(limit_bytes=500, count=Count.OUT), elsewhere=Counters(1000, 100))
    assert notice.values(shared, Counters(30, 12), NOW)["used"] == "112"


def test_without_a_limit_the_limit_is_none() -> None:
    assert notice.values(entry(), Counters(0, 0), NOW)["limit"] == "none"


def test_a_block_by_the_admin_has_no_end() -> None:
    free = entry(limit_bytes=500)
    blocked = replace(free, vm=replace(free.vm, state=State.BLOCKED, blocked_reason="spam"))
    found = notice.values(blocked, Counters(0, 0), NOW)
    assert (found["state"], found["until"]) == ("blocked", "none")
    assert notice.headline(blocked) != notice.headline(free)


def test_usage_alone_changes_no_headline() -> None:
    assert notice.headline(replace(entry(), elsewhere=Counters(1, 1))) == notice.headline(entry())


# the nodes


def test_only_the_guest_may_read_its_nodes_and_dom0_owns_them(server: Xenstored) -> None:
    change(server, lambda inside: put(inside, 7, WEB1, None))
    assert nodes(server) == VALUES
    assert permissions(server) == {(b"n0", b"r7")}


def test_a_tree_that_the_guest_made_before_is_replaced(server: Xenstored) -> None:
    server.write_all({f"{HOME}/xenbw/state/deep": "", f"{HOME}/xenbw/more": "9", f"{HOME}/xenbw/used": "0"})
    for name in ("", "/state", "/used", "/more"):
        server.tree.set_perms(f"{HOME}/xenbw{name}".encode(), (b"b7",))
    change(server, lambda inside: put(inside, 7, WEB1, None))
    assert nodes(server) == VALUES
    assert permissions(server) == {(b"n0", b"r7")}


def test_permissions_that_changed_meanwhile_are_set_again(server: Xenstored) -> None:
    change(server, lambda inside: put(inside, 7, WEB1, None))
    server.tree.set_perms(f"{HOME}/xenbw".encode(), (b"b7",))
    change(server, lambda inside: put(inside, 7, WEB1, VALUES))
    assert permissions(server) == {(b"n0", b"r7")}
    assert nodes(server) == VALUES


def test_the_nodes_of_a_guest_that_owns_its_home_are_not_the_guests(server: Xenstored) -> None:
    server.tree.set_perms(HOME.encode(), (b"n7",))
    change(server, lambda inside: put(inside, 7, WEB1, None))
    assert permissions(server) == {(b"n0", b"r7")}


def test_only_values_that_changed_are_written(server: Xenstored) -> None:
    change(server, lambda inside: put(inside, 7, WEB1, None))
    server.seen.clear()
    change(server, lambda inside: put(inside, 7, Notice("web1", VALUES | {"used": "6"}), VALUES))
    written = [path for op, path in server.seen if op in (Op.WRITE, Op.SET_PERMS, Op.RM, Op.MKDIR)]
    assert written == [f"{HOME}/xenbw/used"]
    assert nodes(server)["used"] == "6"


def test_removal_takes_the_whole_tree_and_nothing_else(server: Xenstored) -> None:
    change(server, lambda inside: put(inside, 7, WEB1, None))
    change(server, lambda inside: put(inside, 7, None, VALUES))
    assert server.list(HOME) == ["name", "vm"]


def test_a_domain_that_is_gone_gets_no_home_again(server: Xenstored) -> None:
    server.remove(HOME)
    change(server, lambda inside: put(inside, 7, WEB1, VALUES))
    change(server, lambda inside: put(inside, 7, None, VALUES))
    assert server.list("/local/domain") == ["0"]


def test_a_domain_that_goes_while_its_nodes_are_written_gets_no_home_again(server: Xenstored) -> None:
    change(server, lambda inside: put(inside, 7, WEB1, None))
    tries = []

    def late(inside: Transaction) -> None:
        put(inside, 7, Notice("web1", VALUES | {"used": "6"}), VALUES)
        if not tries:
            server.remove(HOME)
        tries.append(1)

    change(server, late)
    assert len(tries) == 2
    assert server.list("/local/domain") == ["0"]


@pytest.mark.parametrize("nodes_of_it", [{f"{HOME}/name": "db1"}, {f"{HOME}/target": "3"}])
def test_a_domain_of_another_vm_and_a_stub_device_model_are_told_nothing(
    server: Xenstored, nodes_of_it: dict[str, str | bytes]
) -> None:
    change(server, lambda inside: put(inside, 7, WEB1, None))
    server.write_all(nodes_of_it)
    server.tree.set_perms(next(iter(nodes_of_it)).encode(), (b"n0", b"r7"))
    change(server, lambda inside: put(inside, 7, WEB1, VALUES))
    assert "xenbw" not in server.list(HOME)


def test_work_that_xenstored_refuses_changes_nothing(server: Xenstored) -> None:
    def work(inside: Transaction) -> None:
        inside.write(f"{HOME}/new", "1")
        inside.write("/no//path", "1")

    with pytest.raises(RefusedError, match="EINVAL"):
        change(server, work)
    assert server.read(f"{HOME}/new") is None


# the thread


def test_an_offer_is_written_and_then_removed(server: Xenstored, notices: Notices) -> None:
    notices.offer({7: WEB1})
    assert until(lambda: nodes(server) == VALUES)
    notices.offer({7: None})
    assert until(lambda: "xenbw" not in server.list(HOME))
    assert notices.problem is None


def test_no_offer_waits_for_a_hung_xenstored_and_the_newest_is_written_when_it_answers(
    server: Xenstored, notices: Notices
) -> None:
    notices.offer({7: WEB1})
    assert until(lambda: nodes(server) == VALUES)
    server.hang()
    started = time.monotonic()
    for number in range(100):
        notices.offer({7: Notice("web1", VALUES | {"used": str(number)})})
    assert time.monotonic() - started < busy(0.5)
    assert until(lambda: "timed out" in (notices.problem or ""))
    server.resume()
    assert until(lambda: nodes(server).get("used") == "99")
    assert until(lambda: notices.problem is None)


def test_a_new_xenstored_gets_all_nodes_again(server: Xenstored, notices: Notices) -> None:
    notices.offer({7: WEB1})
    assert until(lambda: nodes(server) == VALUES)
    server.die()
    server.path.unlink()
    notices.offer({7: Notice("web1", VALUES | {"used": "6"})})
    assert until(lambda: str(server.path) in (notices.problem or ""))
    with Xenstored(server.path) as fresh:
        fresh.write_all({f"{HOME}/name": "web1"})
        assert until(lambda: nodes(fresh) == VALUES | {"used": "6"})
        assert permissions(fresh) == {(b"n0", b"r7")}
        assert until(lambda: notices.problem is None)


def test_a_guest_whose_nodes_xenstored_refuses_does_not_stop_the_others(server: Xenstored, notices: Notices) -> None:
    server.write_all({"/local/domain/8/name": "db1"})
    notices.offer({8: Notice("db1", {"no//path": ""}), 7: WEB1})
    assert until(lambda: nodes(server) == VALUES)
    assert "xenbw" not in server.list("/local/domain/8")


def test_the_thread_ends_when_it_is_closed(server: Xenstored) -> None:
    before = set(threading.enumerate())
    writing = Notices(str(server.path))
    writing.offer({7: WEB1})
    assert until(lambda: nodes(server) == VALUES)
    assert "notices" in {thread.name for thread in set(threading.enumerate()) - before}
    writing.close()
    assert until(lambda: "notices" not in {thread.name for thread in set(threading.enumerate()) - before})
    assert nodes(server) == VALUES

"""Reading xenstore: what is read, what is never read, and that no wait is without end."""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pace import busy, until
from tests.support.xenstored import Xenstored
from xenbw.xen.wire import socket_path
from xenbw.xen.xenstore import Answer, Lookup, StoreError, VifFacts, XenStore

CAPTURES = Path(__file__).parents[1] / "data" / "xen-4.17"
WEB1 = {
    "/local/domain/0/backend/vif/7/0/frontend-id": "7",
    "/local/domain/0/backend/vif/7/0/mac": "00:16:3e:50:00:07",
    "/local/domain/7/name": "web1",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Xenstored]:
    with Xenstored(tmp_path / "socket") as running:
        running.write_all(WEB1)
        yield running


@pytest.fixture
def store(server: Xenstored) -> Iterator[XenStore]:
    with XenStore(str(server.path), timeout=3) as connected:
        yield connected


@pytest.fixture
def lookup(server: Xenstored) -> Iterator[Lookup]:
    asking = Lookup(str(server.path), timeout=3, pause=0.05)
    yield asking
    asking.close()


def capture(name: str) -> dict[str, str | bytes]:
    """The nodes in the output of a real `xenstore-ls -f`."""
    text = (CAPTURES / name).read_text()
    return dict(re.findall(r'^(/\S+) = "(.*)"$', text, re.MULTILINE))


def next_answers(lookup: Lookup, seconds: float = 2) -> list[Answer]:
    """What a daemon's selector would be woken for."""
    assert select.select([lookup], [], [], busy(seconds))[0], "no answer came"
    return lookup.answers()


def lookup_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "xenstore-lookup"}


def test_a_value_is_read_and_an_absent_path_is_none(store: XenStore) -> None:
    assert store.read("/local/domain/7/name") == "web1"
    assert store.read("/local/domain/8/name") is None


def test_a_relative_path_is_dom0s(store: XenStore) -> None:
    assert store.read("backend/vif/7/0/mac") == "00:16:3e:50:00:07"


def test_bytes_that_are_not_utf8_are_shown_and_not_an_error(server: Xenstored, store: XenStore) -> None:
    server.write_all({"/local/domain/7/name": b"web\xff\xc3\xbc"})
    assert store.read("/local/domain/7/name") == "web\\xffü"


def test_a_path_that_xenstored_refuses_is_an_error_and_the_connection_stays_open(store: XenStore) -> None:
    with pytest.raises(StoreError, match="EINVAL"):
        store.read("/no//such")
    assert store.read("/local/domain/7/name") == "web1"


def test_all_facts_about_a_vif_of_a_real_dom0_are_read(server: Xenstored, store: XenStore) -> None:
    server.write_all(capture("03-many-vifname-longname-oddname/xenstore-local-domain.txt"))
    assert store.vif(7, 0) == VifFacts(
        domid=7,
        devid=0,
        name="ren",
        uuid=server.read("/local/domain/7/vm").removeprefix("/vm/"),  # type: ignore[union-attr]  # it is there
        mac="00:16:3e:77:00:17",
        ips="10.77.0.23",
        bridge="xenbr0",
        hotplug_status="connected",
        interface="web0",
        script="/etc/xen/scripts/vif-bridge",
    )


def test_a_fact_that_is_not_in_xenstore_is_none(store: XenStore) -> None:
    assert store.vif(7, 0) == VifFacts(7, 0, "web1", None, "00:16:3e:50:00:07", "", None, None, None, None)


def test_a_vif_that_is_not_there_is_none(store: XenStore) -> None:
    assert store.vif(7, 1) is None


@pytest.mark.parametrize("suffix", ["--incoming", "--migratedaway"])
def test_a_migrating_domain_keeps_the_vms_name(server: Xenstored, store: XenStore, suffix: str) -> None:
    server.write_all({"/local/domain/7/name": "web1" + suffix})
    facts = store.vif(7, 0)
    assert facts is not None
    assert facts.name == "web1"


def test_nothing_a_guest_can_write_is_read(server: Xenstored, store: XenStore) -> None:
    server.write_all(
        {
            "/local/domain/0/backend/vif/7/0/frontend": "/local/domain/7/device/vif/0",
            "/local/domain/7/device/vif/0/backend": "/local/domain/0/backend/vif/9/0",
            "/local/domain/7/device/vif/0/mac": "00:16:3e:66:66:66",
        }
    )
    store.vif(7, 0)
    read = {path for _, path in server.seen}
    domain = {"/local/domain/7/name", "/local/domain/7/vm", "/local/domain/7/target"}
    assert domain < read
    assert all(path.startswith("/local/domain/0/backend/vif/7/0/") for path in read - domain)
    assert "/local/domain/0/backend/vif/7/0/frontend" not in read


def test_a_frontend_id_that_is_no_number_is_an_error(server: Xenstored, store: XenStore) -> None:
    server.write_all({"/local/domain/0/backend/vif/7/0/frontend-id": "../9"})
    with pytest.raises(StoreError, match="frontend-id"):
        store.vif(7, 0)


def test_a_missing_socket_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path}/none: cannot reach xenstored: No such file"):
        XenStore(str(tmp_path / "none"))


def test_a_hung_xenstored_is_an_error_within_the_timeout(server: Xenstored, store: XenStore) -> None:
    server.hang()
    started = time.monotonic()
    with pytest.raises(StoreError, match="timed out"):
        store.vif(7, 0)
    assert 0.15 < time.monotonic() - started < busy(5)


def test_a_dying_xenstored_is_an_error_at_once(server: Xenstored) -> None:
    store = XenStore(str(server.path), timeout=30)
    server.hang()
    threading.Timer(0.1, server.die).start()
    started = time.monotonic()
    with pytest.raises(StoreError, match="no answer"):
        store.read("/local/domain/7/name")
    assert time.monotonic() - started < busy(3)


def test_a_hung_xenstored_with_a_full_backlog_is_an_error_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as never_accepting:
        never_accepting.bind(path)
        never_accepting.listen(1)
        first, second = XenStore(path), XenStore(path)
        with pytest.raises(StoreError, match="cannot reach"):
            XenStore(path)
        first.close()
        second.close()


def test_the_socket_is_where_xenstored_path_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENSTORED_PATH", "/elsewhere/socket")
    assert socket_path() == "/elsewhere/socket"
    monkeypatch.delenv("XENSTORED_PATH")
    assert socket_path() == "/run/xenstored/socket"


def test_a_lookup_wakes_the_selector_with_its_answer(lookup: Lookup) -> None:
    assert lookup.answers() == []
    lookup.ask(7, 0)
    (answer,) = next_answers(lookup)
    assert answer.facts is not None
    assert (answer.domid, answer.devid, answer.facts.name, answer.error) == (7, 0, "web1", None)
    assert not select.select([lookup], [], [], 0)[0]


def test_a_lookup_of_no_vif_has_no_facts_and_no_error(lookup: Lookup) -> None:
    lookup.ask(7, 5)
    assert next_answers(lookup) == [Answer(7, 5, None, None)]


def test_a_hung_xenstored_fails_all_waiting_lookups_and_stalls_no_caller(server: Xenstored, lookup: Lookup) -> None:
    server.hang()
    for domid in range(100):
        lookup.ask(domid, 0)
    assert lookup.answers() == []
    failed: list[Answer] = []
    while len(failed) < 100:
        failed += next_answers(lookup)
    assert [answer.domid for answer in failed] == list(range(100))
    assert all(answer.error for answer in failed)


def test_a_question_that_waits_is_not_asked_again(server: Xenstored, lookup: Lookup) -> None:
    server.hang()
    lookup.ask(1, 0)
    assert until(lambda: lookup._asked.qsize() == 0)  # the thread has taken it up
    for _ in range(1000):
        lookup.ask(7, 0)
        lookup.ask(8, 0)
    assert lookup._asked.qsize() == 2
    failed: list[Answer] = []
    while len(failed) < 3:
        failed += next_answers(lookup)
    server.resume()
    lookup.ask(7, 0)
    found: list[Answer] = []
    while not found:
        found = next_answers(lookup)  # the selector may be woken by an answer that was taken already
    assert found[0].facts


def test_lookups_work_again_once_xenstored_does(server: Xenstored, lookup: Lookup) -> None:
    server.hang()
    lookup.ask(7, 0)
    assert next_answers(lookup)[0].error
    server.resume()
    lookup.ask(7, 0)
    assert next_answers(lookup)[0].facts


def test_lookups_work_again_with_a_new_xenstored(server: Xenstored, lookup: Lookup) -> None:
    lookup.ask(7, 0)
    assert next_answers(lookup)[0].facts
    server.die()
    lookup.ask(7, 0)
    assert next_answers(lookup)[0].error
    server.path.unlink()
    with Xenstored(server.path) as reborn:
        reborn.write_all(WEB1)
        lookup.ask(7, 0)
        assert next_answers(lookup)[0].facts


def test_however_often_xenstored_hangs_the_lookup_is_one_thread(server: Xenstored) -> None:
    server.hang()
    before = lookup_threads()
    lookup = Lookup(str(server.path), timeout=0.1, pause=0.01)
    for _ in range(3):
        lookup.ask(7, 0)
        assert next_answers(lookup)[0].error
    assert len(lookup_threads() - before) == 1
    lookup.close()


def test_closing_never_waits_for_a_hung_xenstored(server: Xenstored) -> None:
    server.hang()
    before = lookup_threads()
    lookup = Lookup(str(server.path), timeout=30)
    (thread,) = lookup_threads() - before
    lookup.ask(7, 0)
    lookup.close()
    assert thread.daemon

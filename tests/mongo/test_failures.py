"""Whatever fails, the server, the network or xenbw, in the end the book says what the ledger says."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bookkeeper import Books, base, pushes
from tests.support.effort import cases
from tests.support.host import REPO, Host
from tests.support.mongoaccess import KEEPER, Access
from tests.support.mongod import Mongod
from tests.support.pace import at_last, busy, until, within
from tests.support.relay import Relay
from tests.support.replicaset import ReplicaSet
from tests.support.smalldisk import SmallDisk
from xenbw.book import sync
from xenbw.book.sync import marks_path
from xenbw.errors import XenbwError

pytestmark = [pytest.mark.mongo, pytest.mark.usefixtures("impatient")]

MIB = 1024**2
SECRET = "s3cret"  # must not appear in any output


# a server that answers late, with an error, or not at all


def test_a_hung_server_is_given_up_and_gets_everything_when_it_goes_on(books: Books, server: Mongod) -> None:
    books.live(10)
    books.sync.push()
    server.hang()
    books.live(10)
    began = time.monotonic()
    with pytest.raises(XenbwError, match="the book"):
        books.sync.push()
    assert time.monotonic() - began < busy(5)
    server.resume()
    assert until(lambda: pushes(books))
    assert books.agrees(base(server))


@pytest.mark.parametrize(
    "failure",
    [
        {"errorCode": 10107},  # NotWritablePrimary
        {"closeConnection": True},
        {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    ],
    ids=["not primary", "hangs up", "not replicated"],
)
def test_a_write_that_was_not_acknowledged_is_repeated(failure: dict[str, Any], tmp_path: Path, server: Mongod) -> None:
    # A client looks again only at its next heartbeat at a server that said that it is no primary.
    books = Books(tmp_path, f"{server.uri}&heartbeatFrequencyMS=500")
    books.live(10)
    books.sync.push()
    known = marks_path(books.settings).read_text()
    books.live(10)
    server.fail("update", **failure)
    with pytest.raises(XenbwError, match="the book"):
        books.sync.push()
    assert marks_path(books.settings).read_text() == known
    server.heal()
    assert until(lambda: pushes(books))
    assert books.agrees(base(server))
    books.ledger.close()


@pytest.mark.parametrize("good", [0, 1, 2], ids=lambda good: f"after {good} writes")
def test_a_push_that_is_cut_off_midway_gets_all_documents_in_the_end(good: int, tmp_path: Path, server: Mongod) -> None:
    # A client looks again only at its next heartbeat at a server that hung up on it.
    books = Books(tmp_path, f"{server.uri}&heartbeatFrequencyMS=500")
    for _ in range(3):
        books.live(3)
        server.fail("update", mode={"skip": good}, closeConnection=True)
        assert not pushes(books)
        server.heal()
        assert until(lambda: pushes(books))
        assert books.agrees(base(server))
    books.ledger.close()


def test_a_write_that_is_carried_out_late_does_not_undo_a_newer_write(books: Books, server: Mongod) -> None:
    books.live(10)
    books.sync.push()
    books.live(1)
    # Longer than the client waits.
    server.fail("update", times=1, blockConnection=True, blockTimeMS=7000)
    with pytest.raises(XenbwError):
        books.sync.push()
    books.live(1)
    assert until(lambda: pushes(books))
    time.sleep(7)
    assert books.agrees(base(server))


def test_a_full_disk_of_the_server_only_delays_the_push(tmp_path: Path) -> None:
    with SmallDisk(48 * MIB) as disk, Mongod(disk=disk) as server:
        books = Books(tmp_path, server.uri)
        books.live(10)
        books.sync.push()
        disk.fill()
        while pushes(books):
            books.live(200)
        disk.free()
        server.kill()
        server.start()
        assert until(lambda: pushes(books))
        assert books.agrees(base(server))
        books.ledger.close()


def test_indexes_come_back_with_a_resync_of_an_empty_server(books: Books, server: Mongod) -> None:
    books.live(1)
    books.sync.push()
    before = {name: base(server)[name].index_information() for name in ("samples", "usage", "bindings", "events")}
    base(server).client.drop_database(KEEPER.database)
    marks_path(books.settings).unlink()
    books.sync.push()
    after = {name: base(server)[name].index_information() for name in before}
    assert after == before


def test_failed_tries_leave_no_threads_behind(books: Books, server: Mongod) -> None:
    server.stop()
    pushes(books)
    before = threading.active_count()
    for _ in range(3):
        pushes(books)
    assert threading.active_count() <= before


# a book that cannot be opened


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """A server that requires a login."""
    with Mongod(Access.make(tmp_path_factory.mktemp("locked"), login=True)) as server:
        yield server


def test_the_login_in_the_configuration_is_used(tmp_path: Path, locked: Mongod) -> None:
    uri = f"mongodb://{locked.host}/?directConnection=true&authSource={KEEPER.database}"
    books = Books(tmp_path, uri, user=KEEPER.name, password=KEEPER.password)
    books.live(1)
    books.sync.push()
    assert books.agrees(base(locked))
    books.ledger.close()


def test_a_wrong_password_is_reported_and_not_shown(tmp_path: Path, locked: Mongod) -> None:
    uri = f"mongodb://{locked.host}/?directConnection=true&authSource={KEEPER.database}"
    books = Books(tmp_path, uri, user=KEEPER.name, password=SECRET)
    with pytest.raises(XenbwError, match="Authentication failed") as caught:
        books.sync.push()
    assert SECRET not in f"{caught.value!r} {caught.value} {books.sync.state()} {books.sync.summary()} {books.settings}"
    books.ledger.close()


@pytest.mark.parametrize(
    ("uri", "section", "said"),
    [
        ("mongodb://nowhere.invalid/", {}, "the book: nowhere.invalid:27017: "),
        ("mongodb://127.0.0.1:1/", {}, "the book: 127.0.0.1:1: "),
        ("mongodb://", {}, r"\[mongodb\]: "),
        ("mongodb://host:port/", {}, r"\[mongodb\]: .*[Pp]ort"),
        (f"mongodb://xenbw:{SECRET}@a@host/", {}, r"\[mongodb\]: .*escaped"),
        (f"mongodb://xenbw:{SECRET}/word@host/", {}, r"\[mongodb\]: "),
        (f"mongodb://xenbw:{SECRET}?word@host/", {}, r"\[mongodb\]: "),
        (f"mongodb+srv://xenbw:{SECRET}@nowhere.invalid/", {}, r"\[mongodb\]: "),
        ("mongodb://127.0.0.1:1/?replicaSet=", {}, r"\[mongodb\]: |the book: "),
        ("mongodb://127.0.0.1:1/", {"ca": Path("/nowhere/ca.pem")}, r"\[mongodb\]: .*No such file"),
        ("mongodb://127.0.0.1:1/", {"certificate": Path("/nowhere/client.pem")}, r"\[mongodb\]: .*No such file"),
    ],
)
def test_a_wrong_address_is_reported_in_one_line(tmp_path: Path, uri: str, section: dict[str, Any], said: str) -> None:
    books = Books(tmp_path, uri, **section)
    books.live(1)
    with pytest.raises(XenbwError, match=said) as caught:
        books.sync.push()
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text + repr(books.settings)
    assert len(text) < 400
    books.ledger.close()


# under load


def settles(books: Books, database: Callable[[], Any]) -> bool:
    """Whether the thread makes the book agree with the ledger, without being hastened."""
    return until(lambda: books.sync.backlog == 0 and books.sync.problem is None and books.agrees(database()), 40)


def test_a_replica_set_whose_primary_is_killed_under_load_loses_and_doubles_nothing(
    tmp_path: Path, replicas: ReplicaSet
) -> None:
    books = Books(tmp_path, replicas.uri, interval=0.1)
    books.sync.start()
    for _ in range(2):
        books.live(30)
        assert until(lambda: books.sync.current_at is not None, 20)
        killed = replicas.kill_primary()
        for _ in range(20):
            books.live(5)
            time.sleep(0.1)
        killed.start()
        replicas.await_whole()
    assert settles(books, lambda: base(replicas))
    books.sync.stop(grace=5)
    books.ledger.close()


_CHILD = """
import sys
from pathlib import Path
from tests.support.bookkeeper import settings_of
from xenbw.clock import SystemClock
from xenbw.book.sync import Sync

sync = Sync(settings_of(Path(sys.argv[1]), sys.argv[2]), SystemClock())
print("ready", flush=True)
while True:
    sync.push()
"""


def test_a_process_killed_at_random_moments_of_pushes_loses_and_doubles_nothing(books: Books, server: Mongod) -> None:
    argv = [sys.executable, "-c", _CHILD, str(books.ledger.path), server.uri]

    def done() -> int:
        """How many readings have been pushed."""
        return sync.Marks(books.settings, books.ledger).done["reading"]

    moved, kills = set(), cases(10, 30)
    for _ in range(kills):
        with subprocess.Popen(argv, cwd=REPO, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            end = time.monotonic() + random.uniform(0, 0.5)
            while time.monotonic() < end:
                books.live(1)
                time.sleep(0.005)
            # On a busy machine a child may have done nothing by then; most must be killed in the middle.
            within(lambda: done() not in moved, random.uniform(0.5, 3))
            child.kill()
        moved.add(done())
    assert len(moved) > kills // 3
    books.sync.push()
    assert books.agrees(base(server))


def test_a_daemon_killed_again_and_again_while_it_counts_and_pushes_loses_and_doubles_nothing(
    server: Mongod, tmp_path: Path
) -> None:
    with Relay(tmp_path, server.host) as relay, Host(f'[mongodb]\nuri = "{relay.uri}"\ninterval = 0.1\n') as host:
        host.start_daemon()
        guest = host.start("web1")
        kills = cases(15, 100)
        for _ in range(kills):
            guest.send(20_000)
            time.sleep(random.uniform(0, 0.2))
            host.kill_daemon()
            host.start_daemon()
        counted = host.quiet(guest)
        assert counted.out_bytes > kills * 20_000
        assert at_last(lambda: host.usage("web1"), counted) == counted

        def booked(span: str) -> tuple[int, int]:
            rows = list(base(server).usage.find({"vm": "web1", "span": span}))
            return sum(row["in_bytes"] for row in rows), sum(row["out_bytes"] for row in rows)

        assert until(lambda: booked("hour") == booked("day") == booked("period") == tuple(counted), 20)


# no boot waits for the book


def test_guests_boot_and_are_blocked_while_the_book_hangs(server: Mongod, tmp_path: Path) -> None:
    with Relay(tmp_path, server.host) as relay, Host(f'[mongodb]\nuri = "{relay.uri}"\ninterval = 0.1\n') as host:
        host.start_daemon()
        first = host.start("web1")
        assert until(lambda: base(server).bindings.find_one({"vm": "web1"}) is not None)
        host.add("web1", limit_bytes=100_000)
        server.hang()
        host.ask("sync")
        time.sleep(0.5)  # by now the thread waits for an answer
        second = host.start("web2")
        assert [script.returncode for script in first.scripts + second.scripts] == [0, 0]
        assert second.scripts[0].seconds < busy(2)
        began = time.monotonic()
        first.send(200_000)
        assert until(lambda: host.blocked(first.address()))
        assert time.monotonic() - began < busy(5)
        server.resume()
        assert until(lambda: base(server).usage.count_documents({"vm": "web1", "out_bytes": {"$gt": 90_000}}) > 0)

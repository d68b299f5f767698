"""The book follows the ledger, whatever happens to the server: a real mongod, the real daemon and real traffic."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.bookkeeper import MARCH, NOW, Books, pushes
from tests.support.books import BOOT
from tests.support.clock import HandClock, utc
from tests.support.effort import cases
from tests.support.host import Host
from tests.support.mongoaccess import KEEPER, Access
from tests.support.mongod import Mongod
from tests.support.pace import at_last, until
from tests.support.replicaset import ReplicaSet
from xenbw.book.book import Book
from xenbw.book.sync import Marks, Sync, marks_path
from xenbw.config import MongodbSection, Settings
from xenbw.errors import XenbwError
from xenbw.ledger import digests, usagelog
from xenbw.ledger.ledger import Ledger

pytestmark = pytest.mark.mongo


def base(server: Mongod | ReplicaSet) -> Any:
    return server.client(tz_aware=True)[KEEPER.database]


def test_everything_in_the_ledger_reaches_the_book(books: Books, server: Mongod) -> None:
    books.live(90)
    books.sync.push()
    assert books.agrees(base(server))
    sample = base(server).samples.find_one({"vm": "web3"}, sort=[("at", -1)])
    assert (sample["in_raw"], sample["interface"], sample["at"]) == (90_000, "vif4.0", books.clock.wall)
    assert sample["expires_at"] - sample["at"] == timedelta(days=3650)
    assert base(server).hosts.find_one({"_id": "dom0-a"})["backlog"] == 0
    assert books.sync.backlog == 0


def test_a_host_tells_the_states_of_its_vms_that_are_near_their_limit_or_past_it(books: Books, server: Mongod) -> None:
    for vm_id, state in zip(books.vms, ("throttled", "over", "unlimited", "warned"), strict=False):
        books.ledger.set_vm(vm_id, state=state)
    books.ledger.set_vm(books.vms[1], retired_at=books.clock.wall)
    books.sync.push()
    states = base(server).hosts.find_one({"_id": "dom0-a"})["states"]
    assert {one["vm"]: one["state"] for one in states} == {"web0": "throttled", "web3": "warned"}
    books.ledger.set_vm(books.vms[0], state="ok")
    books.sync.push()
    assert [one["vm"] for one in base(server).hosts.find_one({"_id": "dom0-a"})["states"]] == ["web3"]


def test_repeating_a_push_changes_nothing(books: Books, server: Mongod) -> None:
    books.live(70)
    books.sync.push()
    marks_path(books.settings).unlink()
    books.sync.push()
    assert books.agrees(base(server))


def test_numbers_are_64_bit_integers_and_times_are_dates(books: Books, server: Mongod) -> None:
    books.live(1)
    books.sync.push()
    (kinds,) = base(server).usage.aggregate(
        [
            {"$match": {"span": "hour", "vm": "web0"}},
            {"$project": {"b": {"$type": "$in_bytes"}, "t": {"$type": "$start"}}},
        ]
    )
    assert (kinds["b"], kinds["t"]) == ("long", "date")


@pytest.mark.usefixtures("impatient")
def test_hours_of_a_hundred_vifs_without_the_server_are_pushed_later_record_by_record(
    tmp_path: Path, server: Mongod
) -> None:
    books = Books(tmp_path, server.uri, vifs=100)
    books.live(10)
    books.sync.push()
    server.stop()
    hours = cases(6, 24)
    books.live(hours * 60)
    with pytest.raises(XenbwError, match="the book"):
        books.sync.push()
    assert books.sync.backlog > hours * 60 * 100
    server.start()
    assert until(lambda: pushes(books))
    assert books.agrees(base(server))
    books.ledger.close()


@pytest.mark.usefixtures("impatient")
def test_a_server_killed_during_pushes_loses_no_acknowledged_write(books: Books, server: Mongod) -> None:
    for _ in range(4):
        books.live(30)
        server.kill()
        with pytest.raises(XenbwError):
            books.sync.push()
        server.start()
        assert until(lambda: pushes(books))
        server.kill()
        server.start()
    assert books.agrees(base(server))


def test_an_emptied_server_is_filled_again_from_the_ledger(books: Books, server: Mongod) -> None:
    books.live(20)
    books.sync.push()
    server.wipe()
    books.live(1)
    books.sync.push()
    assert not books.agrees(base(server))
    marks_path(books.settings).unlink()
    books.sync.push()
    assert books.agrees(base(server))


def test_a_resync_during_a_push_is_not_lost(books: Books, server: Mongod, monkeypatch: pytest.MonkeyPatch) -> None:
    books.live(20)
    books.sync.push()
    indexes = base(server).samples.index_information()
    server.wipe()
    books.live(1)
    write = Book.write

    def resync_meanwhile(book: Book, collection: str, documents: Iterable[Any]) -> None:
        write(book, collection, documents)
        marks_path(books.settings).unlink(missing_ok=True)

    monkeypatch.setattr(Book, "write", resync_meanwhile)
    books.sync.push()
    assert not marks_path(books.settings).exists()
    assert books.sync.backlog > 20
    monkeypatch.undo()
    books.sync.push()
    assert books.agrees(base(server))
    assert base(server).samples.index_information() == indexes
    assert books.sync.backlog == 0


def test_a_new_ledger_starts_from_its_own_beginning(books: Books, server: Mongod, tmp_path: Path) -> None:
    books.live(20)
    books.sync.push()
    books.ledger.close()
    for file in tmp_path.glob("ledger.db*"):
        if file != marks_path(books.settings):
            file.unlink()
    base(server).client.drop_database(KEEPER.database)
    again = Books(tmp_path, server.uri)
    again.live(3)
    again.sync.push()
    assert again.agrees(base(server))
    again.ledger.close()


def test_usage_that_moves_to_another_period_is_zero_in_the_book_s_old_period(books: Books, server: Mongod) -> None:
    books.live(30)
    books.sync.push()
    usagelog.refile(books.ledger, books.vms[0], utc("2026-03-15"), "15@UTC")
    books.sync.push()
    periods = {row["start"]: row["in_bytes"] for row in base(server).usage.find({"span": "period", "vm": "web0"})}
    assert periods == {MARCH: 0, utc("2026-03-15"): 30_000}


def test_the_book_gets_digests_and_the_documents_of_folded_bindings_are_deleted(books: Books, server: Mongod) -> None:
    books.come_and_go(0, 6)
    books.sync.push()
    database = base(server)
    # a document of an earlier VM of that name, of another host, and of another ledger of this host
    foreign = database.bindings.find_one({"vm": "web0", "ended_at": {"$ne": None}})
    strangers = [
        foreign | {"_id": "earlier", "started_at": NOW - timedelta(days=1)},
        foreign | {"_id": "elsewhere", "host": "dom0-b"},
        foreign | {"_id": "replaced", "ledger": "another"},
    ]
    database.bindings.insert_many(strangers)
    assert database.bindings.count_documents({"vm": "web0"}) == 7 + 3
    for _ in range(2):
        digests.fold(books.ledger, BOOT, lambda: (), keep=2)
        books.sync.push()
        lived = {row[0] for row in books.ledger.rows("SELECT started_at FROM binding WHERE vm_id = ?", books.vms[0])}
        left = database.bindings.find({"vm": "web0", "_id": {"$nin": [one["_id"] for one in strangers]}})
        assert {row["_id"].rpartition("/")[2] for row in left} == lived
        assert database.bindings.count_documents({"_id": {"$in": [one["_id"] for one in strangers]}}) == 3
        books.come_and_go(0, 1)
    (digest,) = database.digests.find()
    assert (digest["vm"], digest["lives"], digest["ips"]) == ("web0", 5, ["192.0.2.7"])


def test_bindings_folded_while_the_server_was_away_are_a_digest_only(books: Books, server: Mongod) -> None:
    books.come_and_go(0, 6)
    digests.fold(books.ledger, BOOT, lambda: (), keep=2)
    books.sync.push()
    assert base(server).bindings.count_documents({"vm": "web0"}) == 3
    assert [digest["lives"] for digest in base(server).digests.find()] == [4]
    assert books.sync.backlog == 0


def test_marks_from_before_there_were_digests_are_kept(books: Books, server: Mongod) -> None:
    books.live(2)
    books.sync.push()
    kept = json.loads(marks_path(books.settings).read_text())
    del kept["done"]["digest"]
    marks_path(books.settings).write_text(json.dumps(kept))
    assert Marks(books.settings, books.ledger).done["usage"] == kept["done"]["usage"] > 0


def test_a_replica_set_with_logins_and_tls_can_be_the_book(
    tmp_path: Path, replicas: ReplicaSet, guarded: Access
) -> None:
    books = Books(tmp_path, replicas.uri)
    books.live(30)
    books.sync.push()
    assert books.agrees(base(replicas))
    books.ledger.close()


# with the real daemon


@pytest.fixture
def host(server: Mongod) -> Iterator[Host]:
    # The server listens on this machine's loopback, which a namespace cannot reach: so the thread runs here.
    with Host() as machine:
        machine.start_daemon()
        yield machine


def test_real_traffic_reaches_the_book_to_the_byte(host: Host, server: Mongod) -> None:
    guest = host.start("web1")
    guest.send(300_000)
    counted = host.quiet(guest)
    assert at_last(lambda: host.usage("web1"), counted) == counted
    settings = Settings(
        mongodb=MongodbSection(uri=server.uri, database=KEEPER.database),
        ledger=Settings().ledger.__class__(path=host.ledger_path),
    )
    Sync(settings, HandClock(NOW)).push()
    row = base(server).usage.find_one({"vm": "web1", "span": "period"})
    assert (row["in_bytes"], row["out_bytes"]) == tuple(counted)


@pytest.mark.parametrize("uri", ["mongodb://127.0.0.1:1", "mongodb://user:secret@127.0.0.1:1/?bad=1"])
def test_a_book_that_cannot_be_reached_is_a_problem_in_the_status_and_stalls_nothing(uri: str) -> None:
    with Host(f'[mongodb]\nuri = "{uri}"\ninterval = 0.1\n') as host:
        host.start_daemon()
        guest = host.start("web1")
        host.add("web1", limit_bytes=100_000)
        host.ask("sync")
        guest.send(200_000)
        assert until(lambda: host.blocked(guest.address()))
        assert until(lambda: any("book" in text or "mongodb" in text for text in host.ask("status")["problems"]), 20)
        assert sum("book" in line or "mongodb" in line for line in host.log.read_text().splitlines()) == 1
        status = host.xenbw("status").stdout
        assert "secret" not in status + host.log.read_text()
        assert host.daemon is not None
        host.daemon.send_signal(signal.SIGTERM)
        assert host.daemon.wait(timeout=20) == 0


def test_the_marks_are_valid_for_one_ledger_only(tmp_path: Path) -> None:
    first = Ledger.open(tmp_path / "a.db", create=True)
    second = Ledger.open(tmp_path / "b.db", create=True)
    assert first.meta("id") != second.meta("id")
    first.close()
    second.close()

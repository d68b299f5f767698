"""The book keeps up with the ledger, whatever happens to the server: a genuine mongod, the real daemon and traffic."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.books import BOOT, add_vm, open_ledger, start_vif
from tests.support.clock import HandClock, utc
from tests.support.host import Host, until
from tests.support.mongoaccess import KEEPER, Access
from tests.support.mongod import Mongod
from tests.support.replicaset import ReplicaSet
from xenbw.accounting import Pending, Share
from xenbw.config import MongodbSection, Settings
from xenbw.errors import XenbwError
from xenbw.model import Counters
from xenbw.store.file import Alive
from xenbw.store.ledger import Ledger
from xenbw.store.sync import Sync, marks_path

pytestmark = pytest.mark.mongo

NOW = utc("2026-03-20 12:00")
MARCH = utc("2026-03-01")
VIFS = 10


class Books:
    """A ledger with traffic in it, and its thread for the book, driven by hand."""

    def __init__(self, folder: Path, uri: str, **section: Any) -> None:
        self.ledger = open_ledger(folder, patience=5)
        self.clock = HandClock(NOW)
        self.settings = Settings(
            # The server drops what has expired, by its own clock.
            mongodb=MongodbSection(uri=uri, database=KEEPER.database, keep_samples=3650, **section),
            ledger=Settings().ledger.__class__(path=self.ledger.path),
            host=Settings().host.__class__(name="dom0-a"),
        )
        self.vms = [add_vm(self.ledger, f"web{n}", NOW, limit_bytes=10**12) for n in range(VIFS)]
        self.bindings = [start_vif(self.ledger, f"web{n}", NOW, domid=n + 1) for n in range(VIFS)]
        for vm_id in self.vms:
            self.ledger.set_vm(vm_id, period_start=MARCH, period_rule="1@UTC")
        self.total = 0
        self.sync = Sync(self.settings, self.clock)

    def live(self, minutes: int) -> None:
        """That many minutes of traffic pass: a sample and a commit each."""
        for _ in range(minutes):
            self.clock.go(minutes=1)
            self.total += 1
            at = self.clock.wall
            raw = Counters(self.total * 1000, self.total * 100)
            hour = at.replace(minute=0, second=0)
            self.ledger.commit(
                Pending(
                    tuple((b.id, raw, raw, at) for b in self.bindings),
                    tuple((vm_id, Share(MARCH, hour, 1000, 100, 0)) for vm_id in self.vms),
                ),
                Alive(at, 1000.0, BOOT),
            )
            self.ledger.add_readings([(b.id, raw, raw) for b in self.bindings], at)

    def agrees(self, database: Any) -> bool:
        """Whether the book has what the ledger has, record by record."""
        hours = {
            (row["vm"], row["start"]): (row["in_bytes"], row["out_bytes"])
            for row in database.usage.find({"span": "hour"})
        }
        expected = {}
        for number, vm_id in enumerate(self.vms):
            for hour, usage in self.ledger.hours(vm_id, MARCH):
                expected[f"web{number}", hour] = tuple(usage)
        whole = {row["vm"]: row["in_bytes"] for row in database.usage.find({"span": "period"})}
        days: dict[str, int] = {}
        for row in database.usage.find({"span": "day"}):
            days[row["vm"]] = days.get(row["vm"], 0) + row["in_bytes"]
        samples = database.samples.count_documents({})
        (kept,) = self.ledger.rows("SELECT count(*) FROM reading")[0]
        bound = {row["vm"]: row["in_bytes"] for row in database.bindings.find()}
        each = dict.fromkeys((f"web{n}" for n in range(VIFS)), self.total * 1000)
        return hours == expected and whole == days == bound == each and samples == kept


@pytest.fixture
def books(tmp_path: Path, server: Mongod) -> Iterator[Books]:
    found = Books(tmp_path, server.uri)
    yield found
    found.ledger.close()


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


def test_a_day_without_the_server_is_made_good_record_by_record(books: Books, server: Mongod) -> None:
    books.live(10)
    books.sync.push()
    server.stop()
    books.live(24 * 60)
    with pytest.raises(XenbwError, match="the book"):
        books.sync.push()
    assert books.sync.backlog > 24 * 60 * VIFS
    server.start()
    books.sync.push()
    assert books.agrees(base(server))


def test_a_server_killed_in_the_middle_of_pushes_loses_nothing_it_acknowledged(books: Books, server: Mongod) -> None:
    for _ in range(4):
        books.live(30)
        server.kill()
        with pytest.raises(XenbwError):
            books.sync.push()
        server.start()
        books.sync.push()
        server.kill()
        server.start()
    assert books.agrees(base(server))


def test_an_empty_disk_is_filled_again_from_the_ledger(books: Books, server: Mongod) -> None:
    books.live(20)
    books.sync.push()
    server.wipe()
    books.live(1)
    books.sync.push()
    assert not books.agrees(base(server))
    marks_path(books.settings).unlink()
    books.sync.push()
    assert books.agrees(base(server))


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


def test_usage_filed_under_another_period_leaves_nothing_behind_in_the_book(books: Books, server: Mongod) -> None:
    books.live(30)
    books.sync.push()
    books.ledger.refile(books.vms[0], utc("2026-03-15"), "15@UTC")
    books.sync.push()
    periods = {row["start"]: row["in_bytes"] for row in base(server).usage.find({"span": "period", "vm": "web0"})}
    assert periods == {MARCH: 0, utc("2026-03-15"): 30_000}


def test_a_set_of_three_with_logins_and_tls_is_a_book_too(
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
    # The server listens on this machine's loopback, out of the reach of a namespace: the thread is run here instead.
    with Host() as machine:
        machine.start_daemon()
        yield machine


def test_real_traffic_reaches_the_book_to_the_byte(host: Host, server: Mongod) -> None:
    guest = host.start("web1")
    guest.send(300_000)
    guest.namespace.ip("link set eth0 down")
    counted = guest.counters()
    assert until(lambda: host.usage("web1") == counted)
    settings = Settings(
        mongodb=MongodbSection(uri=server.uri, database=KEEPER.database),
        ledger=Settings().ledger.__class__(path=host.ledger_path),
    )
    Sync(settings, HandClock(NOW)).push()
    row = base(server).usage.find_one({"vm": "web1", "span": "period"})
    assert (row["in_bytes"], row["out_bytes"]) == tuple(counted)


@pytest.mark.parametrize("uri", ["mongodb://127.0.0.1:1", "mongodb://user:secret@127.0.0.1:1/?bad=1"])
def test_a_book_that_cannot_be_reached_is_said_and_stalls_nothing(uri: str) -> None:
    with Host(f'[mongodb]\nuri = "{uri}"\ninterval = 0.1\n') as host:
        host.start_daemon()
        guest = host.start("web1")
        host.add("web1", limit_bytes=100_000)
        host.ask("sync")
        guest.send(200_000)
        assert until(lambda: host.blocked(guest.address()))
        assert until(lambda: any("book" in text or "mongodb" in text for text in host.ask("status")["problems"]), 20)
        status = host.xenbw("status").stdout
        assert "secret" not in status + host.log.read_text()
        assert host.daemon is not None
        host.daemon.send_signal(signal.SIGTERM)
        assert host.daemon.wait(timeout=20) == 0


def test_the_marks_are_for_one_ledger_only(tmp_path: Path) -> None:
    first = Ledger.open(tmp_path / "a.db", create=True)
    second = Ledger.open(tmp_path / "b.db", create=True)
    assert first.meta("id") != second.meta("id")
    first.close()
    second.close()

"""docs/mongodb.md is true: its fields, indexes and commands match the documents that the code writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson.int64 import Int64
from pymongo.errors import OperationFailure

from tests.support import page
from tests.support.bookkeeper import MARCH, Books
from tests.support.books import BOOT, vm_of
from tests.support.clock import utc
from tests.support.mongoaccess import KEEPER, Access, connect
from tests.support.mongod import Mongod
from xenbw import config
from xenbw.book.servers import servers
from xenbw.config import MongodbSection
from xenbw.ledger import digests, usagelog
from xenbw.model import VM, Amounts
from xenbw.quota import FRAME

pytestmark = pytest.mark.mongo

_KINDS = ((Int64, "long"), (bool, "bool"), (int, "int"), (str, "string"), (datetime, "date"), (list, "array"))
WEB1 = 1  # the VM's place in Books.vms


def kind_of(value: Any) -> str:
    return "null" if value is None else next(word for kind, word in _KINDS if isinstance(value, kind))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Books, Any]]:
    """A book with all kinds of documents from two hosts, and the first host's ledger."""
    with Mongod() as server:
        hosts = [
            Books(tmp_path_factory.mktemp(host), server.uri, host, keep_samples=30_000) for host in ("dom0-a", "dom0-b")
        ]
        for host in hosts:
            host.live(90)
            host.come_and_go(2, 3)
            digests.fold(host.ledger, BOOT, lambda: (), keep=1)
            host.ledger.record(host.clock.wall, "null-routed", "web1 null-routed", host.vms[WEB1])
            host.sync.push()
        yield hosts[0], server.client(tz_aware=True)[KEEPER.database]
        for host in hosts:
            host.ledger.close()


@pytest.fixture
def guarded_books(tmp_path: Path, guarded: Access) -> Iterator[tuple[Mongod, str]]:
    """A server with logins and TLS, and its address without them."""
    with Mongod(guarded) as server:
        yield server, f"mongodb://{server.host}/?directConnection=true&authSource={KEEPER.database}"


COLLECTIONS = ("vms", "usage", "history", "samples", "bindings", "digests", "events", "hosts")


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_document_has_the_fields_and_types_of_its_table(fleet: tuple[Books, Any], collection: str) -> None:
    documented = {field: set(kinds.split(" or ")) for field, kinds in page.table(f"`{collection}`").items()}
    documents = list(fleet[1][collection].find())
    assert documents
    for document in documents:
        assert set(document) == set(documented)
        assert {field for field, value in document.items() if kind_of(value) not in documented[field]} == set()


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_every_collection_has_the_documented_indexes(fleet: tuple[Books, Any], collection: str) -> None:
    found = re.search(r"Index(?:es)?: (.*)", page.section(f"`{collection}`"))
    assert found
    assert set(re.findall(r"`([\w-]+)`", found[1])) == set(fleet[1][collection].index_information())


def test_every_collection_is_documented(fleet: tuple[Books, Any]) -> None:
    assert set(fleet[1].list_collection_names()) == set(COLLECTIONS)


def test_the_documented_query_for_a_periods_usage_sums_all_hosts(fleet: tuple[Books, Any]) -> None:
    whole = {"in_bytes": 180_000, "out_bytes": 18_000}
    (row,) = page.run("This period", fleet[1])
    assert {**whole, "_id": "web1", "hosts": sorted(row["hosts"])} == {**row, "hosts": ["dom0-a", "dom0-b"]}
    assert page.run("Every period so far", fleet[1]) == [{**whole, "_id": MARCH}]


def test_the_documented_query_for_a_days_hours_sums_all_hosts(fleet: tuple[Books, Any]) -> None:
    books, database = fleet
    hours = {
        row["_id"]: (row["in_bytes"] // 2, row["out_bytes"] // 2) for row in page.run("The hours of a day", database)
    }
    assert hours == {hour: tuple(usage) for hour, usage in usagelog.hours(books.ledger, books.vms[WEB1], MARCH)}


def test_the_documented_query_for_five_minutes_sums_all_hosts(fleet: tuple[Books, Any]) -> None:
    rows = page.run("by five minutes", fleet[1])
    assert [row["_id"] for row in rows][:2] == [utc("2026-03-20 12:00"), utc("2026-03-20 12:05")]
    whole = {kind: sum(row[kind] for row in rows) for kind in Amounts._fields}
    assert whole == dict(zip(Amounts._fields, (180_000, 18_000, 1800, 360, 180), strict=True))


def test_the_documented_queries_find_vms_that_are_over_or_blocked_and_hosts_that_lag(fleet: tuple[Books, Any]) -> None:
    _, database = fleet
    assert page.run("Over the allowance now", database) == []
    database.vms.update_one({"_id": "web1"}, {"$set": {"limit_bytes": Int64(190_000)}})
    over = {"_id": "web1", "limit_bytes": 190_000, "used_bytes": 198_000}
    assert page.run("Over the allowance now", database) == [over]
    # The dom0 stops a VM when its next frame does not fit.
    database.vms.update_one({"_id": "web1"}, {"$set": {"limit_bytes": Int64(198_000 + FRAME - 1)}})
    assert [row["used_bytes"] for row in page.run("Over the allowance now", database)] == [198_000]
    for count in ("in", "out", "max"):
        database.vms.update_one({"_id": "web1"}, {"$set": {"count": count}})
        assert page.run("Over the allowance now", database) == []
    for limits in (
        {"limit_bytes": None, "count": None},
        {"hard_limit_bytes": Int64(0)},
        {"limit_bytes": Int64(190_000), "unlimited": True},
        {"hard_limit_bytes": Int64(198_000 + FRAME)},
    ):
        database.vms.update_one({"_id": "web1"}, {"$set": limits})
        assert page.run("Over the allowance now", database) == []
    database.vms.update_one({"_id": "web1"}, {"$set": {"hard_limit_bytes": Int64(190_000)}})
    assert page.run("Over the allowance now", database) == [over]
    blocked = {(row["_id"]["vm"], row["_id"]["host"]) for row in page.run("Blocked now", database)}
    assert blocked == {("web1", "dom0-a"), ("web1", "dom0-b")}
    # The hosts' clocks stand in March, so both seem silent for long.
    assert {row["_id"] for row in page.run("Hosts that have not", database)} == {"dom0-a", "dom0-b"}


def test_the_documented_queries_find_bindings_and_samples(fleet: tuple[Books, Any]) -> None:
    _, database = fleet
    database.bindings.update_many({"vm": "web1"}, {"$set": {"ips": ["203.0.113.7"]}})
    assert {row["vm"] for row in page.run("Who had an address", database)} == {"web1"}
    assert {row["vm"] for row in page.run("The same of guests", database)} == {"web2"}
    assert len(page.run("minute by minute", database)) == 2 * 59


def test_every_documented_edit_has_the_documented_effect(books: Books, server: Mongod) -> None:
    database = server.client()[KEEPER.database]

    def after(words: str) -> VM:
        page.run(words, database)
        books.sync.push()
        assert books.sync.faults == []
        return vm_of(books.ledger, books.vms[WEB1])

    books.sync.push()
    assert after("500 GB a period").limit_bytes == 500 * 10**9
    assert after("Raise it").limit_bytes == 550 * 10**9
    free = after("No limit at all")  # then the default applies
    assert (free.limit_bytes, free.unlimited) == (None, False)
    throttled = after("Past its limit")  # and then the default
    assert (throttled.action, throttled.rate, throttled.hard_limit_bytes) == (None, None, None)
    assert after("Block it")  # and then no more
    assert after("Let it through").lifted_until == utc("2026-04-01")
    books.clock.go(
        seconds=(datetime.now(UTC) - books.clock.wall).total_seconds()
    )  # the server's own clock sets the date
    assert after("Take it out").added_at is None
    assert after("500 GB a period").added_at is not None


def test_the_documented_edit_enters_an_unknown_vm(server: Mongod) -> None:
    database = server.client()[KEEPER.database]
    page.run("500 GB a period", database)
    assert database.vms.find_one({"_id": "web1"})["limit_bytes"] == 500 * 10**9


def test_the_documented_configuration_is_valid_and_every_key_is_explained(tmp_path: Path) -> None:
    (tmp_path / "xenbw.toml").write_text(page.block("Then, on each dom0", "toml"))
    shown = config.load(tmp_path / "xenbw.toml").mongodb
    assert (shown.user, servers(shown.uri)) == ("xenbw", ("db1.example.org", "db2.example.org", "db3.example.org"))
    assert set(page.table("Connect a dom0")) == {key.name for key in fields(MongodbSection)}


def test_the_documented_login_suffices_with_the_keys_for_tls(
    tmp_path: Path, guarded: Access, guarded_books: tuple[Mongod, str]
) -> None:
    server, uri = guarded_books
    assert guarded.certificates is not None
    database = server.admin(tz_aware=True)[KEEPER.database]
    database.command("dropUser", KEEPER.name)
    page.run("A login with", database)
    keys: dict[str, Any] = {"ca": guarded.certificates.authority, "certificate": guarded.certificates.client}
    books = Books(tmp_path, uri, user="xenbw", password=page.PASSWORD, **keys)
    books.live(1)
    books.sync.push()
    assert books.agrees(database)
    books.ledger.close()


def test_a_panel_with_the_documented_role_reads_all_and_writes_vms_only(tmp_path: Path) -> None:
    with Mongod(Access.make(tmp_path, login=True)) as server:
        page.run("A panel needs no more", server.admin()[KEEPER.database])
        uri = f"mongodb://{server.host}/?directConnection=true&authSource={KEEPER.database}"
        with connect(uri, username="panel", password=page.PASSWORD) as client:
            database = client[KEEPER.database]
            page.run("500 GB a period", database)
            assert page.run("This period", database) == []
            with pytest.raises(OperationFailure):
                database.usage.insert_one({})


def test_a_dom0_with_the_documented_role_writes_its_documents_and_cannot_empty_a_collection(tmp_path: Path) -> None:
    with Mongod(Access.make(tmp_path, login=True)) as server:
        page.run("This role may not", server.admin()[KEEPER.database])
        uri = f"mongodb://{server.host}/?directConnection=true&authSource={KEEPER.database}"
        books = Books(tmp_path, uri, user="dom0", password=page.PASSWORD)
        books.live(1)
        books.sync.push()
        books.come_and_go(2, 3)
        digests.fold(books.ledger, BOOT, lambda: (), keep=1)
        books.sync.push()
        assert books.sync.faults == []
        database = server.admin(tz_aware=True)[KEEPER.database]
        assert database.digests.count_documents({}) == 1
        assert database.bindings.count_documents({"vm": "web2"}) == 2
        books.ledger.close()
        with connect(uri, username="dom0", password=page.PASSWORD) as client:
            own = client[KEEPER.database]
            for collection in ("vms", "usage", "events"):
                with pytest.raises(OperationFailure):
                    own[collection].delete_many({})
                with pytest.raises(OperationFailure):
                    own[collection].drop()


def test_a_customer_with_the_documented_view_reads_only_usage_of_its_own_vms(tmp_path: Path) -> None:
    with Mongod(Access.make(tmp_path, login=True)) as server:
        database = server.admin()[KEEPER.database]
        database.usage.insert_many([{"vm": "acme-web1"}, {"vm": "web1"}])
        page.run("by a view of its VMs", database)
        uri = f"mongodb://{server.host}/?directConnection=true&authSource={KEEPER.database}"
        with connect(uri, username="acme", password=page.PASSWORD) as client:
            own = client[KEEPER.database]
            assert [row["vm"] for row in own.usage_acme.find()] == ["acme-web1"]
            with pytest.raises(OperationFailure):
                own.usage.find_one()
            with pytest.raises(OperationFailure):
                own.usage_acme.insert_one({"vm": "acme-web1"})

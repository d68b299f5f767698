"""Fixtures of the mongo tests: a genuine server, alone or as a replica set, with and without logins and TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.bookkeeper import Books
from tests.support.fleet import Dom0
from tests.support.mongoaccess import KEEPER, Access
from tests.support.mongod import Mongod
from tests.support.replicaset import ReplicaSet
from xenbw.book import book


@pytest.fixture(scope="package")  # an idle mongod takes a twentieth of a processor from the tests that come after
def stock() -> Iterator[list[Mongod]]:
    """A server to which tests did nothing but write into its databases; one at most."""
    servers: list[Mongod] = []
    yield servers
    for mongod in servers:
        mongod.close()


@pytest.fixture
def server(stock: list[Mongod]) -> Iterator[Mongod]:
    """A standalone server without logins; new, or used only by writes and emptied."""
    if not stock:
        stock.append(Mongod().__enter__())
    mongod = stock[0]
    yield mongod
    if mongod.untouched:
        mongod.renew()
    else:
        stock.clear()
        mongod.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The book gives up an unreachable server within a second, and a hung server within five."""
    monkeypatch.setattr(book, "_PATIENCE_MS", 1000)
    monkeypatch.setattr(book, "_SOCKET_PATIENCE_MS", 5000)


@pytest.fixture
def books(tmp_path: Path, server: Mongod) -> Iterator[Books]:
    """A ledger whose book is `server`."""
    kept = Books(tmp_path, server.uri)
    yield kept
    kept.ledger.close()


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Access:
    """A server with logins and TLS with client certificates."""
    return Access.make(tmp_path_factory.mktemp("access"), login=True, tls=True)


@pytest.fixture(scope="session")
def three(guarded: Access) -> Iterator[ReplicaSet]:
    """The replica set behind `replicas`."""
    with ReplicaSet(3, guarded) as nodes:
        yield nodes


@pytest.fixture
def replicas(three: ReplicaSet) -> ReplicaSet:
    """A replica set of three with logins and TLS; all members run, and its database is empty."""
    three.mend()
    with three.primary.admin() as admin:
        admin.drop_database(KEEPER.database)
    return three


@pytest.fixture
def a(tmp_path: Path, server: Mongod) -> Iterator[Dom0]:
    """A host whose book is `server`."""
    host = Dom0("dom0-a", tmp_path / "a", server.uri)
    yield host
    host.ledger.close()


@pytest.fixture
def b(tmp_path: Path, server: Mongod) -> Iterator[Dom0]:
    """Another host with the same book."""
    host = Dom0("dom0-b", tmp_path / "b", server.uri)
    yield host
    host.ledger.close()


@pytest.fixture
def vms(server: Mongod) -> Any:
    """The VMs in the book, as a panel edits them."""
    return server.client(tz_aware=True)[KEEPER.database].vms

"""What the mongo tests share: a genuine server, in the ways that admins run one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.mongoaccess import KEEPER, Access
from tests.support.mongod import Mongod
from tests.support.replicaset import ReplicaSet


@pytest.fixture
def server() -> Iterator[Mongod]:
    """A standalone server that lets everyone in."""
    with Mongod() as mongod:
        yield mongod


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Access:
    """Logins and TLS with client certificates."""
    return Access.make(tmp_path_factory.mktemp("access"), login=True, tls=True)


@pytest.fixture(scope="session")
def three(guarded: Access) -> Iterator[ReplicaSet]:
    """The set behind `replicas`."""
    with ReplicaSet(3, guarded) as nodes:
        yield nodes


@pytest.fixture
def replicas(three: ReplicaSet) -> ReplicaSet:
    """A replica set of three with logins and TLS: whole, and its database empty."""
    three.mend()
    with three.primary.admin() as admin:
        admin.drop_database(KEEPER.database)
    return three

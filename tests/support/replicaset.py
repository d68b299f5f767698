"""A replica set of genuine mongods, with elections fast enough for tests."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Self

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.support.mongoaccess import ADMIN, KEEPER, OPEN, Access, connect
from tests.support.mongod import Mongod, MongodError

_NAME = "rs0"
_SETTINGS = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200}
# A member that found a source of its data unfit tries it again after a minute (MongoDB's SyncSourceResolver); with two
# members left, everything waits for that.
_PATIENCE = 90  # seconds
_PROBE = {"serverSelectionTimeoutMS": 500, "connectTimeoutMS": 500, "socketTimeoutMS": 500}


class ReplicaSet:
    """`with ReplicaSet(3) as replicas`: every member is up, in step, and one is primary. `nodes` are the members."""

    def __init__(self, count: int, access: Access = OPEN) -> None:
        self._access = access
        self._exit = contextlib.ExitStack()
        self.nodes = [Mongod(access, replica_set=_NAME) for _ in range(count)]
        for node in self.nodes:
            self._exit.callback(node.close)
        self._clients = self._exit.enter_context(contextlib.ExitStack())

    def __enter__(self) -> Self:
        try:
            self._found()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def uri(self) -> str:
        """The value of [mongodb] uri: all members, as KEEPER if they ask for a login."""
        return self._access.uri([node.host for node in self.nodes], KEEPER, replicaSet=_NAME)

    def client(self, **options: Any) -> MongoClient[dict[str, Any]]:
        """A client with the rights of `uri`; it is closed with the set. `options` are MongoClient's."""
        client = connect(self.uri, **{"serverSelectionTimeoutMS": 5000, **options})
        self._clients.callback(client.close)
        return client

    @property
    def primary(self) -> Mongod:
        """The member that accepts writes; waits for an election to end, raises MongodError when none does."""
        return self._await(self._elected, "has no primary")

    def kill_primary(self) -> Mongod:
        """Kill the member that accepts writes with SIGKILL; returns it, for its `start`."""
        victim = self.primary
        victim.kill()
        return victim

    def await_whole(self) -> None:
        """Wait until every member is primary or has all of the primary's data; raises MongodError."""
        primary = self._await_useful()
        everywhere = {"w": len(self.nodes), "wtimeout": _PATIENCE * 1000}
        with connect(self._access.uri([primary.host], ADMIN, directConnection="true")) as client:
            answer = client.admin.command("appendOplogNote", data={"in": "step?"}, writeConcern=everywhere)
        if "writeConcernError" in answer:
            raise MongodError(f"the replica set is not in step: {answer['writeConcernError']}")

    def mend(self) -> None:
        """Heal, resume and start all members after a test, and close the set's clients; the data stay."""
        for node in self.nodes:
            node.resume()
            if not node.running:
                node.launch()
        for node in self.nodes:
            node.await_ready()
        self.await_whole()
        for node in self.nodes:
            node.heal()
        self._clients.close()

    def wipe(self) -> None:
        """Come back as a new set with empty disks, on the same ports."""
        for node in self.nodes:
            node.clear()
        self._found()

    def close(self) -> None:
        """End all members and delete their data."""
        for node in self.nodes:
            node.resume()  # or closing a client would wait for the hung one
        self._exit.close()

    def _found(self) -> None:
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.await_ready()
        members = [{"_id": number, "host": node.host} for number, node in enumerate(self.nodes)]
        config = {"_id": _NAME, "members": members, "settings": _SETTINGS}
        patience = {"serverSelectionTimeoutMS": 30_000, "connectTimeoutMS": 10_000, "socketTimeoutMS": 30_000}
        with self._probe(self.nodes[0], **patience) as client:
            client.admin.command("replSetInitiate", config)
        self._access.create_users(self._await_useful().host, len(self.nodes))
        self.await_whole()

    def _await_useful(self) -> Mongod:
        return self._await(
            lambda: self._elected() if all(map(_useful, self._hellos().values())) else None, "is not whole"
        )

    def _elected(self) -> Mongod | None:
        hellos = self._hellos().items()
        primaries = [(hello["electionId"], node) for node, hello in hellos if hello.get("isWritablePrimary")]
        # A member that hung through an election may still think that it is primary: the last election counts.
        return max(primaries, key=lambda elected: elected[0])[1] if primaries else None

    def _hellos(self) -> dict[Mongod, dict[str, Any]]:
        """Each member's own status; empty when it is dead or hung."""
        return {node: self._hello(node) for node in self.nodes}

    def _hello(self, node: Mongod) -> dict[str, Any]:
        if not node.running:
            return {}
        try:
            with self._probe(node) as client:
                answer: dict[str, Any] = client.admin.command("hello")
        except PyMongoError:
            return {}
        return answer

    def _probe(self, node: Mongod, **options: Any) -> MongoClient[dict[str, Any]]:
        return connect(self._access.uri([node.host], None, directConnection="true"), **{**_PROBE, **options})

    def _await(self, found: Callable[[], Mongod | None], complaint: str) -> Mongod:
        limit = time.monotonic() + _PATIENCE
        while (node := found()) is None:
            if time.monotonic() > limit:
                raise MongodError(f"the replica set {complaint}: {self._hellos()}")
            time.sleep(0.05)
        return node


def _useful(hello: dict[str, Any]) -> bool:
    return bool(hello.get("isWritablePrimary") or hello.get("secondary"))

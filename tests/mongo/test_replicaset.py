"""The replica sets that the other tests use behave as documented."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo import WriteConcern
from pymongo.errors import AutoReconnect, ServerSelectionTimeoutError

from tests.support.mongoaccess import Access
from tests.support.replicaset import ReplicaSet

pytestmark = pytest.mark.mongo


def things(replicas: ReplicaSet, **options: Any) -> Any:
    return replicas.client(**options)["xenbw"].get_collection("things", write_concern=WriteConcern("majority"))


def test_a_set_of_one_accepts_writes_again_after_a_kill() -> None:
    with ReplicaSet(1) as replicas:
        things(replicas).insert_one({"_id": 1})
        replicas.kill_primary().start()
        assert replicas.primary is replicas.nodes[0]
        assert things(replicas).find_one() == {"_id": 1}


def test_another_member_takes_over_from_a_killed_primary(replicas: ReplicaSet) -> None:
    collection = things(replicas)
    collection.insert_one({"_id": 1})
    killed = replicas.kill_primary()
    assert replicas.primary is not killed
    collection.insert_one({"_id": 2})
    killed.start()
    replicas.await_whole()
    assert collection.count_documents({}) == 2


def test_another_member_takes_over_from_a_hung_primary(replicas: ReplicaSet) -> None:
    hung = replicas.primary
    hung.hang()
    successor = replicas.primary
    assert successor is not hung
    hung.resume()
    replicas.await_whole()
    assert replicas.primary is successor


def test_one_member_of_three_accepts_no_writes(replicas: ReplicaSet) -> None:
    collection = things(replicas, serverSelectionTimeoutMS=300).with_options(write_concern=WriteConcern(1))
    for node in replicas.nodes[:2]:
        node.kill()
    with pytest.raises(AutoReconnect):
        while True:  # a primary that is left alone steps down after its election timeout
            collection.insert_one({})
    with pytest.raises(ServerSelectionTimeoutError):
        collection.insert_one({})


def test_a_wiped_member_gets_its_data_from_the_others(replicas: ReplicaSet) -> None:
    things(replicas).insert_one({"_id": 1})
    lost = next(node for node in replicas.nodes if node is not replicas.primary)
    lost.wipe()
    replicas.await_whole()
    assert lost.client(readPreference="secondaryPreferred")["xenbw"]["things"].find_one() == {"_id": 1}


def test_a_wiped_set_comes_back_empty_and_accepts_its_users(guarded: Access) -> None:
    with ReplicaSet(1, guarded) as replicas:
        things(replicas).insert_one({"_id": 1})
        replicas.wipe()
        collection = things(replicas)
        assert collection.find_one() is None
        collection.insert_one({"_id": 1})

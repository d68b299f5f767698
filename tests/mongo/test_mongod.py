"""The servers that the other tests use behave as documented."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo import MongoClient, WriteConcern
from pymongo.errors import AutoReconnect, NetworkTimeout, OperationFailure, PyMongoError, WriteConcernError

from tests.support.mongoaccess import OPEN, Access, Certificates, connect
from tests.support.mongod import Mongod, MongodError
from tests.support.pace import until
from tests.support.smalldisk import SmallDisk

pytestmark = pytest.mark.mongo

JOURNALLED = WriteConcern(w=1, j=True)
UNAUTHORIZED = 13
TIMED_OUT = 50
MIB = 1024**2


def things(client: MongoClient[dict[str, Any]]) -> Any:
    return client["xenbw"].get_collection("things", write_concern=JOURNALLED)


def test_the_chosen_version_of_pymongo_is_in_use() -> None:
    chosen = "4." if "pymongo4" in os.environ.get("PYTHONPATH", "") else "3.11."
    assert pymongo.version.startswith(chosen)


def test_journalled_documents_survive_a_kill(server: Mongod) -> None:
    things(server.client()).insert_one({"_id": 1})
    server.kill()
    assert not server.running
    server.start()
    assert things(server.client()).find_one() == {"_id": 1}


def test_a_stopped_server_ends_cleanly_and_keeps_everything(server: Mongod) -> None:
    server.client()["xenbw"]["things"].insert_one({"_id": 1})
    assert server.stop() == 0
    server.start()
    assert things(server.client()).find_one() == {"_id": 1}


def test_a_hung_server_can_still_be_stopped_cleanly(server: Mongod) -> None:
    server.hang()
    assert server.stop() == 0


def test_the_port_of_a_dead_server_is_kept_for_it(server: Mongod) -> None:
    server.kill()
    host, _, port = server.host.partition(":")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((host, int(port)))
    server.start()
    assert things(server.client()).find_one() is None


def test_a_hung_server_takes_requests_and_answers_when_resumed(server: Mongod) -> None:
    impatient, patient = server.client(socketTimeoutMS=2000, retryReads=False), server.client()
    assert things(impatient).find_one() is things(patient).find_one() is None
    server.hang()
    with pytest.raises(NetworkTimeout):
        things(impatient).find_one()
    assert server.running
    server.resume()
    assert things(patient).find_one() is None


def test_a_wiped_server_comes_back_empty_at_the_same_address(server: Mongod) -> None:
    before = server.uri
    things(server.client()).insert_one({"_id": 1})
    server.wipe()
    assert server.uri == before
    assert things(server.client()).find_one() is None


def test_a_command_fails_the_given_number_of_times(server: Mongod) -> None:
    server.fail("insert", times=2, errorCode=TIMED_OUT)
    collection = things(server.client())
    for _ in range(2):
        with pytest.raises(OperationFailure) as caught:
            collection.insert_one({})
        assert caught.value.code == TIMED_OUT
    collection.insert_one({})
    assert collection.count_documents({}) == 1


def test_a_command_fails_until_healed(server: Mongod) -> None:
    collection = things(server.client())
    server.fail("insert", "update", closeConnection=True)
    with pytest.raises(AutoReconnect):
        collection.insert_one({})
    with pytest.raises(AutoReconnect):
        collection.update_one({"_id": 1}, {"$set": {"n": 1}}, upsert=True)
    server.heal()
    collection.insert_one({})
    assert collection.count_documents({}) == 1


def test_a_command_fails_after_some_that_worked(server: Mongod) -> None:
    collection = things(server.client())
    server.fail("insert", mode={"skip": 1}, closeConnection=True)
    collection.insert_one({})
    with pytest.raises(AutoReconnect):
        collection.insert_one({})


def test_a_completed_write_can_be_reported_as_failed(server: Mongod) -> None:
    collection = things(server.client())
    server.fail("insert", times=1, writeConcernError={"code": 64, "errmsg": "waiting for replication timed out"})
    with pytest.raises(WriteConcernError):
        collection.insert_one({"_id": 1})
    assert collection.find_one() == {"_id": 1}


def test_a_command_can_be_made_slow(server: Mongod) -> None:
    server.fail("find", times=1, blockConnection=True, blockTimeMS=300)
    before = time.monotonic()
    things(server.client()).find_one()
    assert time.monotonic() - before >= 0.3


def test_expired_documents_are_deleted_within_seconds(server: Mongod) -> None:
    collection = things(server.client())
    collection.create_index("at", expireAfterSeconds=0)
    collection.insert_one({"at": datetime.now(UTC)})
    assert until(lambda: collection.find_one() is None)


def test_a_login_may_use_its_own_database_only(tmp_path: Path) -> None:
    with Mongod(Access.make(tmp_path, login=True)) as server:
        things(server.client()).insert_one({})
        with pytest.raises(OperationFailure) as caught:
            server.client()["other"]["things"].insert_one({})
        assert caught.value.code == UNAUTHORIZED
        server.admin()["other"]["things"].insert_one({})


def test_without_a_login_nothing_can_be_read(tmp_path: Path) -> None:
    with Mongod(Access.make(tmp_path, login=True)) as server:
        with (
            connect(OPEN.uri([server.host], None, directConnection="true")) as stranger,
            pytest.raises(OperationFailure) as caught,
        ):
            things(stranger).find_one()
        assert caught.value.code == UNAUTHORIZED


def test_a_guarded_server_can_be_wiped_and_made_to_fail(guarded: Access) -> None:
    with Mongod(guarded) as server:
        server.wipe()
        server.fail("insert", times=1, errorCode=1)
        with pytest.raises(OperationFailure):
            things(server.client()).insert_one({})
        things(server.client()).insert_one({})


def test_tls_is_refused_without_the_clients_certificate(guarded: Access) -> None:
    assert guarded.certificates is not None
    with Mongod(guarded) as server:
        things(server.client()).insert_one({})
        options = {"tls": "true", "tlsCAFile": str(guarded.certificates.authority), "serverSelectionTimeoutMS": "3000"}
        with connect(OPEN.uri([server.host], None, **options)) as stranger, pytest.raises(AutoReconnect):
            things(stranger).find_one()


def test_a_server_of_another_authority_is_not_trusted(guarded: Access, tmp_path: Path) -> None:
    assert guarded.certificates is not None
    others = Certificates.make(tmp_path)
    impostor = Access(certificates=Certificates(others.authority, others.server, others.client))
    with Mongod(impostor) as server:
        options = {"tls": "true", "tlsCAFile": str(guarded.certificates.authority), "serverSelectionTimeoutMS": "3000"}
        client = str(others.client)
        uri = OPEN.uri([server.host], None, tlsCertificateKeyFile=client, **options)
        with connect(uri) as victim, pytest.raises(AutoReconnect, match="certificate verify failed"):
            things(victim).find_one()


def test_a_full_disk_loses_no_acknowledged_write() -> None:
    with SmallDisk(48 * MIB) as disk, Mongod(disk=disk) as server:
        collection = things(server.client())
        disk.fill()
        written = 0
        with pytest.raises(PyMongoError):  # the server refuses the write, or exits
            while True:
                collection.insert_one({"_id": written, "ballast": os.urandom(20_000)})
                written += 1
        disk.free()
        server.kill()
        server.start()
        assert things(server.client()).count_documents({"_id": {"$lt": written}}) == written


def test_the_reason_is_reported_when_a_server_does_not_start() -> None:
    with SmallDisk(MIB // 16) as disk, pytest.raises(MongodError, match="No space left on device"), Mongod(disk=disk):
        pass


def test_no_server_outlives_its_process(tmp_path: Path) -> None:
    program = (
        "import signal; from tests.support.mongod import Mongod\n"
        "with Mongod() as server: print(server.host, flush=True); signal.pause()"
    )
    env = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        host = parent.stdout.readline().strip()
        with connect(OPEN.uri([host], None, directConnection="true")) as client:
            client.admin.command("ping")
        parent.send_signal(signal.SIGKILL)
    address, _, port = host.partition(":")

    def refused() -> bool:
        with socket.socket() as caller:
            return caller.connect_ex((address, int(port))) == errno.ECONNREFUSED

    assert until(refused)

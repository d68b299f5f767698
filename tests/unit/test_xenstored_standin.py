"""The xenstored stand-in answers Debian's own xenstore tools and Xen's client library as the real daemon does."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.libxenstore import Libxenstore
from tests.support.xenstored import Op, Xenstored


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Xenstored]:
    with Xenstored(tmp_path / "socket") as server:
        yield server


@pytest.fixture
def client(store: Xenstored, monkeypatch: pytest.MonkeyPatch) -> Iterator[Libxenstore]:
    monkeypatch.setenv("XENSTORED_PATH", str(store.path))
    connected = Libxenstore()
    yield connected
    connected.close()


def tool(store: Xenstored, *argv: str, timeout: float = 5) -> subprocess.CompletedProcess[str]:
    """Run one of Debian's xenstore tools against the stand-in."""
    env = {**os.environ, "XENSTORED_PATH": str(store.path)}
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=timeout, check=False)


def test_the_tools_read_back_what_they_wrote(store: Xenstored) -> None:
    assert tool(store, "xenstore-write", "backend/vif/1/0/mac", "00:16:3e:00:00:01").returncode == 0
    assert tool(store, "xenstore-read", "backend/vif/1/0/mac").stdout == "00:16:3e:00:00:01\n"


def test_relative_paths_are_dom0s(store: Xenstored) -> None:
    tool(store, "xenstore-write", "backend/vif/1/0/ip", "10.0.0.1", "/local/domain/1/name", "web1")
    assert store.read("/local/domain/0/backend/vif/1/0/ip") == "10.0.0.1"
    assert tool(store, "xenstore-read", "/local/domain/0/backend/vif/1/0/ip").stdout == "10.0.0.1\n"
    assert tool(store, "xenstore-read", "/local/domain/1/name").stdout == "web1\n"


def test_an_absent_path_is_told_by_the_tools_exit_status(store: Xenstored) -> None:
    assert tool(store, "xenstore-read", "/nowhere").returncode == 1
    assert tool(store, "xenstore-exists", "/nowhere").returncode == 1
    assert tool(store, "xenstore-exists", "/local/domain/0").returncode == 0


def test_a_list_that_is_too_long_for_one_answer_is_sent_in_parts(store: Xenstored) -> None:
    names = [f"child-{number:04}" for number in range(1200)]
    store.write_all({f"/many/{name}": "" for name in names})
    assert tool(store, "xenstore-list", "/many").stdout.splitlines() == names


def test_ls_shows_the_tree(store: Xenstored) -> None:
    store.write_all({"/vm/u/name": "web1", "/vm/u/uuid": "u"})
    assert tool(store, "xenstore-ls", "/vm").stdout == 'u = ""\n name = "web1"\n uuid = "u"\n'
    assert tool(store, "xenstore-list", "/vm/u").stdout == "name\nuuid\n"


def test_rm_takes_the_whole_subtree(store: Xenstored) -> None:
    store.write_all({"/vm/u/name": "web1"})
    assert tool(store, "xenstore-rm", "/vm/u").returncode == 0
    assert store.read("/vm/u/name") is None
    assert store.read("/vm") == ""


def test_chmod_is_kept_and_inherited(store: Xenstored, client: Libxenstore) -> None:
    store.write_all({"/vm/u": ""})
    assert tool(store, "xenstore-chmod", "/vm/u", "n0", "r7").returncode == 0
    client.write(b"/vm/u/name", b"web1")
    assert client.permissions(b"/vm/u/name") == ["n0", "r7"]


def test_the_watch_tool_hears_changes_below_its_path(store: Xenstored) -> None:
    argv = ["xenstore-watch", "-n", "2", "backend/vif"]
    env = {**os.environ, "XENSTORED_PATH": str(store.path)}
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "backend/vif\n"  # every watch fires once when it is set
        store.write_all({"/local/domain/0/elsewhere": "", "/local/domain/0/backend/vif/1/0/state": "4"})
        assert watcher.stdout.readline() == "backend/vif/1/0/state\n"
        assert watcher.wait(5) == 0


def test_removing_a_parent_fires_the_watches_below_it(store: Xenstored, client: Libxenstore) -> None:
    store.write_all({"/vm/u/name": "web1"})
    client.watch(b"/vm/u/name", b"token")
    assert client.event() == (b"/vm/u/name", b"token")
    store.remove("/vm/u")
    assert client.event() == (b"/vm/u/name", b"token")


def test_the_same_watch_twice_is_refused_and_an_unknown_one_cannot_be_ended(client: Libxenstore) -> None:
    client.watch(b"/vm", b"token")
    with pytest.raises(OSError, match=".") as again:
        client.watch(b"/vm", b"token")
    with pytest.raises(OSError, match=".") as unknown:
        client.unwatch(b"/vm", b"other")
    assert (again.value.errno, unknown.value.errno) == (errno.EEXIST, errno.ENOENT)


def test_the_library_reads_lists_makes_and_deletes(client: Libxenstore) -> None:
    client.mkdir(b"/vm/u")
    client.write(b"/vm/u/name", b"web1")
    assert client.read(b"/vm/u/name") == b"web1"
    assert client.directory(b"/vm") == [b"u"]
    client.rm(b"/vm/u")
    assert client.directory(b"/vm") == []
    assert client.domain_path(7) == b"/local/domain/7"


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (lambda client: client.read(b"/nowhere"), errno.ENOENT),
        (lambda client: client.rm(b"/nowhere/child"), errno.ENOENT),
        (lambda client: client.rm(b"/"), errno.EINVAL),
        (lambda client: client.end(abort=True), errno.ENOENT),
    ],
)
def test_errors_carry_the_real_codes(client: Libxenstore, operation: object, code: int) -> None:
    assert callable(operation)
    with pytest.raises(OSError, match=".") as refused:
        operation(client)
    assert refused.value.errno == code


def test_a_transaction_is_invisible_until_committed(store: Xenstored, client: Libxenstore) -> None:
    client.begin()
    client.write(b"/vm/u/name", b"web1")
    assert store.read("/vm/u/name") is None
    client.end()
    assert store.read("/vm/u/name") == "web1"


def test_a_transaction_that_was_overtaken_must_be_repeated(store: Xenstored, client: Libxenstore) -> None:
    client.begin()
    client.write(b"/vm/u/name", b"web1")
    store.write_all({"/vm/u/name": "web2"})
    with pytest.raises(BlockingIOError):  # EAGAIN
        client.end()
    assert store.read("/vm/u/name") == "web2"


def test_a_rolled_back_transaction_changes_nothing(store: Xenstored, client: Libxenstore) -> None:
    client.begin()
    client.write(b"/vm/u/name", b"web1")
    client.end(abort=True)
    assert store.read("/vm/u/name") is None


def test_a_hung_stand_in_accepts_connections_and_answers_when_resumed(store: Xenstored) -> None:
    store.write_all({"/vm/u/name": "web1"})
    store.hang()
    with pytest.raises(subprocess.TimeoutExpired):
        tool(store, "xenstore-read", "/vm/u/name", timeout=0.3)
    threading.Timer(0.2, store.resume).start()
    assert tool(store, "xenstore-read", "/vm/u/name").stdout == "web1\n"


def test_a_dead_stand_in_closes_every_connection_and_refuses_new_ones(store: Xenstored) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(store.path))
        client.sendall(struct.pack("=IIII", Op.READ, 0, 0, 5) + b"name\0")
        assert client.recv(100).endswith(b"Domain-0")
        store.hang()
        store.die()
        assert client.recv(1) == b""
    with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
        late.connect(str(store.path))


def test_the_stand_in_runs_as_a_process(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-m", "tests.support.xenstored", str(path)], cwd=root) as process:
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.01)
        env = {**os.environ, "XENSTORED_PATH": str(path)}
        answer = subprocess.run(
            ["xenstore-read", "/local/domain/0/name"], env=env, capture_output=True, text=True, check=True
        )
        process.send_signal(signal.SIGTERM)
        assert (answer.stdout, process.wait(5)) == ("Domain-0\n", 0)

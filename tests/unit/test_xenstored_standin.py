"""The xenstored stand-in answers Debian's own xenstore tools and pyxs as the real daemon does."""

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
from pyxs import Client, PyXSError

from tests.support.xenstored import Op, Xenstored


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Xenstored]:
    with Xenstored(tmp_path / "socket") as server:
        yield server


@pytest.fixture
def client(store: Xenstored) -> Iterator[Client]:
    with Client(unix_socket_path=str(store.path)) as connected:
        yield connected


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


def test_an_absent_path_gives_the_tools_an_exit_status(store: Xenstored) -> None:
    assert tool(store, "xenstore-read", "/nowhere").returncode == 1
    assert tool(store, "xenstore-exists", "/nowhere").returncode == 1
    assert tool(store, "xenstore-exists", "/local/domain/0").returncode == 0


def test_a_list_that_is_too_long_for_one_answer_comes_in_parts(store: Xenstored) -> None:
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


def test_chmod_is_kept_and_inherited(store: Xenstored, client: Client) -> None:
    store.write_all({"/vm/u": ""})
    assert tool(store, "xenstore-chmod", "/vm/u", "n0", "r7").returncode == 0
    client.write(b"/vm/u/name", b"web1")
    assert client.get_perms(b"/vm/u/name") == [b"n0", b"r7"]


def test_the_watch_tool_gets_changes_below_its_path(store: Xenstored) -> None:
    argv = ["xenstore-watch", "-n", "2", "backend/vif"]
    env = {**os.environ, "XENSTORED_PATH": str(store.path)}
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "backend/vif\n"  # every watch fires once when it is set
        store.write_all({"/local/domain/0/elsewhere": "", "/local/domain/0/backend/vif/1/0/state": "4"})
        assert watcher.stdout.readline() == "backend/vif/1/0/state\n"
        assert watcher.wait(5) == 0


def test_removing_a_parent_fires_the_watches_below_it(store: Xenstored, client: Client) -> None:
    store.write_all({"/vm/u/name": "web1"})
    with client.monitor() as monitor:
        monitor.watch(b"/vm/u/name", b"token")
        events = monitor.wait()
        next(events)
        store.remove("/vm/u")
        assert tuple(next(events)) == (b"/vm/u/name", b"token")


def test_the_same_watch_twice_is_refused_and_an_unknown_one_cannot_be_ended(client: Client) -> None:
    with client.monitor() as monitor:
        monitor.watch(b"/vm", b"token")
        with pytest.raises(PyXSError) as again:
            monitor.watch(b"/vm", b"token")
        with pytest.raises(PyXSError) as unknown:
            monitor.unwatch(b"/vm", b"other")
    assert (again.value.args[0], unknown.value.args[0]) == (errno.EEXIST, errno.ENOENT)


def test_pyxs_reads_lists_makes_and_deletes(client: Client) -> None:
    client.mkdir(b"/vm/u")
    client.write(b"/vm/u/name", b"web1")
    assert client.read(b"/vm/u/name") == b"web1"
    assert client.list(b"/vm") == [b"u"]
    client.delete(b"/vm/u")
    assert not client.exists(b"/vm/u")
    assert client.get_domain_path(7) == b"/local/domain/7"


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (lambda client: client.read(b"/nowhere"), errno.ENOENT),
        (lambda client: client.delete(b"/nowhere/child"), errno.ENOENT),
        (lambda client: client.delete(b"/"), errno.EINVAL),
        (lambda client: client.rollback(), errno.ENOENT),
    ],
)
def test_errors_carry_the_real_codes(client: Client, operation: object, code: int) -> None:
    assert callable(operation)
    with pytest.raises(PyXSError) as refused:
        operation(client)
    assert refused.value.args[0] == code


def test_a_transaction_is_invisible_until_committed(store: Xenstored, client: Client) -> None:
    client.transaction()
    client.write(b"/vm/u/name", b"web1")
    assert store.read("/vm/u/name") is None
    assert client.commit()
    assert store.read("/vm/u/name") == "web1"


def test_a_transaction_that_was_overtaken_must_be_repeated(store: Xenstored, client: Client) -> None:
    client.transaction()
    client.write(b"/vm/u/name", b"web1")
    store.write_all({"/vm/u/name": "web2"})
    assert not client.commit()
    assert store.read("/vm/u/name") == "web2"


def test_a_rolled_back_transaction_changes_nothing(store: Xenstored, client: Client) -> None:
    client.transaction()
    client.write(b"/vm/u/name", b"web1")
    client.rollback()
    assert store.read("/vm/u/name") is None


def test_while_hung_the_stand_in_accepts_but_does_not_answer_until_resumed(store: Xenstored) -> None:
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

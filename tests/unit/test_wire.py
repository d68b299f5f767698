"""The xenstore client against servers that break the protocol: every call ends in time, with an error, and no request
gets the answer to another."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.console import REPO
from tests.support.pace import busy
from tests.support.xenstored import Op, Xenstored
from xenbw.xen.wire import RefusedError, Store, Wire
from xenbw.xen.xenstore import StoreError, XenStore

PATH = "/local/domain/7/name"
MINE = b"MINE"


class Broken:
    """A server that answers each request with the next of `answers`, whatever was asked, and hangs up after the last
    one. MINE in an answer stands for the request's own number."""

    def __init__(self, path: Path, *answers: bytes, gap: float = 0.0) -> None:
        self.path, self._answers, self._gap = path, answers, gap
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        stream, _ = self._listener.accept()
        with stream, self._listener:
            for number, answer in enumerate(self._answers, 1):
                _, _, _, size = struct.unpack("=IIII", stream.recv(16, socket.MSG_WAITALL))
                stream.recv(size, socket.MSG_WAITALL)
                try:
                    self._send(stream, answer.replace(MINE, struct.pack("=I", number)))
                except OSError:
                    return  # the client has seen enough

    def _send(self, stream: socket.socket, answer: bytes) -> None:
        for at in range(len(answer)) if self._gap else ():
            stream.sendall(answer[at : at + 1])
            time.sleep(self._gap)
        if not self._gap:
            stream.sendall(answer)


def packet(kind: int, payload: bytes = b"", *, number: bytes = MINE, size: int | None = None) -> bytes:
    """An answer: its number is that of the request, and its size that of the payload, unless given."""
    length = len(payload) if size is None else size
    return struct.pack("=I", kind) + number + struct.pack("=II", 0, length) + payload


BROKEN = {
    "nothing": b"",
    "half a header": packet(Op.READ, b"web1")[:9],
    "half a value": packet(Op.READ, b"web1", size=100),
    "more than a payload may be": packet(Op.READ, b"x" * 4097),
    "a length of 4 GiB": packet(Op.READ, b"web1", size=2**32 - 1),
    "another request's number": packet(Op.READ, b"web1", number=b"\xff" * 4),
    "another operation": packet(Op.DIRECTORY, b"web1\0"),
    "an event that nobody watches for": packet(Op.WATCH_EVENT, b"/local\0token\0"),
    "an operation that does not exist": packet(9999, b"web1"),
    "bytes of something else": b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"\xff" * 64,
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_an_answer_that_breaks_the_protocol_is_an_error_in_time(tmp_path: Path, answer: bytes) -> None:
    server = Broken(tmp_path / "socket", answer)
    wire = Wire(str(server.path))
    began = time.monotonic()
    with pytest.raises(OSError, match="xenstored"):
        wire.read(PATH, time.monotonic() + 1)
    assert time.monotonic() - began < busy(0.9)
    with pytest.raises(OSError, match="Bad file descriptor"):
        wire.read(PATH, time.monotonic() + 1)


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_the_error_of_the_daemon_and_the_cli_names_the_socket(tmp_path: Path, answer: bytes) -> None:
    Broken(tmp_path / "socket", answer)
    with XenStore(str(tmp_path / "socket"), timeout=1) as store, pytest.raises(StoreError, match=f"{tmp_path}/socket"):
        store.read(PATH)


def test_an_answer_that_comes_byte_by_byte_is_read_whole(tmp_path: Path) -> None:
    Broken(tmp_path / "socket", packet(Op.READ, b"web1"), gap=0.001)
    assert Wire(str(tmp_path / "socket")).read(PATH, time.monotonic() + busy(5)) == "web1"


def test_an_answer_that_never_ends_is_given_up_at_the_deadline(tmp_path: Path) -> None:
    """Each byte comes soon after the one before, so a limit for each wait alone would never be reached."""
    Broken(tmp_path / "socket", packet(Op.READ, b"x" * 4096), gap=0.02)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        Wire(str(tmp_path / "socket")).read(PATH, began + 0.3)
    assert time.monotonic() - began < busy(2)


def test_request_numbers_begin_anew_after_32_bits(tmp_path: Path) -> None:
    with Xenstored(tmp_path / "socket") as server:
        server.write_all({PATH: "web1"})
        wire = Wire(str(server.path))
        wire._requests = 2**32 - 2
        assert [wire.read(PATH, time.monotonic() + busy(5)) for _ in range(3)] == ["web1"] * 3


def test_a_late_answer_is_not_taken_for_the_next_request_s(tmp_path: Path) -> None:
    with Xenstored(tmp_path / "socket") as server:
        server.write_all({PATH: "web1", "/local/domain/8/name": "web2"})
        wire = Wire(str(server.path))
        server.hang()
        with pytest.raises(TimeoutError):
            wire.read(PATH, time.monotonic() + 0.1)
        server.resume()
        with pytest.raises(OSError, match="Bad file descriptor"):
            wire.read("/local/domain/8/name", time.monotonic() + 1)


def test_a_deadline_that_has_passed_is_not_waited_for(tmp_path: Path) -> None:
    with Xenstored(tmp_path / "socket") as server, pytest.raises(TimeoutError):
        Wire(str(server.path)).read(PATH, time.monotonic() - 1)


@pytest.mark.parametrize(("payload", "code"), [(b"EACCES\0", "EACCES"), (b"\xff", "\\xff"), (b"", "")])
def test_a_refusal_has_the_code_and_the_connection_stays_open(tmp_path: Path, payload: bytes, code: str) -> None:
    Broken(tmp_path / "socket", packet(Op.ERROR, payload), packet(Op.READ, b"web1"))
    wire, deadline = Wire(str(tmp_path / "socket")), time.monotonic() + busy(5)
    with pytest.raises(RefusedError) as refused:
        wire.read(PATH, deadline)
    assert refused.value.code == code
    assert wire.read(PATH, deadline) == "web1"


@pytest.mark.parametrize("permissions", [b"", b"n", b"x\0y\0", b"nobody\0", b"n-1\0", b"\xff\xff\xff"])
def test_permissions_that_name_no_domain_have_no_owner(tmp_path: Path, permissions: bytes) -> None:
    Broken(tmp_path / "socket", packet(Op.GET_PERMS, permissions))
    assert Wire(str(tmp_path / "socket")).owner(PATH, time.monotonic() + busy(5)) is None


E2BIG = packet(Op.ERROR, b"E2BIG\0")


def parts(*payloads: bytes) -> list[bytes]:
    return [E2BIG, *(packet(Op.DIRECTORY_PART, payload) for payload in payloads)]


@pytest.mark.parametrize(
    ("answers", "names"),
    [
        (parts(b"5\x001\x002\0", b"5\x003\0\0"), [b"1", b"2", b"3"]),
        (parts(b"5\x001\x002\0", b"6\x009\0", b"6\x001\0", b"6\x003\0\0"), [b"1", b"3"]),
        (parts(b"5\x001\x002\0", b"5\0\0"), [b"1", b"2"]),
        (parts(b"5\0\0"), []),
        ([*parts(b"5\x001\x002\0"), packet(Op.ERROR, b"ENOENT\0")], []),
    ],
    ids=["two parts", "changed meanwhile", "ends with a part of its own", "emptied", "removed meanwhile"],
)
def test_a_long_list_is_put_together_from_its_parts(tmp_path: Path, answers: list[bytes], names: list[bytes]) -> None:
    Broken(tmp_path / "socket", *answers)
    assert Wire(str(tmp_path / "socket")).children("/local/domain", time.monotonic() + busy(5)) == names


@pytest.mark.parametrize("payload", [b"", b"5", b"5\0"])
def test_a_part_of_a_list_with_nothing_in_it_is_an_error_and_not_asked_for_again(
    tmp_path: Path, payload: bytes
) -> None:
    Broken(tmp_path / "socket", *parts(payload))
    with pytest.raises(OSError, match="part of a list"):
        Wire(str(tmp_path / "socket")).children("/local/domain", time.monotonic() + busy(5))


@pytest.fixture
def broken_for_the_hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XENSTORED_PATH", str(tmp_path / "socket"))
    return tmp_path / "socket"


@pytest.fixture
def crowded(broken_for_the_hook: Path) -> Iterator[socket.socket]:
    """A xenstored that is still to accept as many connections as its backlog holds."""
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as one,
        socket.socket(socket.AF_UNIX) as two,
    ):
        listener.bind(str(broken_for_the_hook))
        listener.listen(1)
        one.connect(str(broken_for_the_hook))
        two.connect(str(broken_for_the_hook))
        yield listener


def test_the_hook_waits_for_its_turn_to_be_accepted(crowded: socket.socket) -> None:
    threading.Timer(0.1, crowded.accept).start()
    Store(busy(1)).close()


def test_the_hook_waits_no_longer_to_be_accepted_than_it_may(crowded: socket.socket) -> None:
    began = time.monotonic()
    with pytest.raises(BlockingIOError):
        Store(0.2)
    assert 0.15 < time.monotonic() - began < busy(1)


def test_the_hook_takes_what_is_refused_as_absent(broken_for_the_hook: Path) -> None:
    Broken(broken_for_the_hook, packet(Op.ERROR, b"EACCES\0"), packet(Op.ERROR, b"EIO\0"), packet(Op.READ, b"web1"))
    store = Store(busy(1))
    assert (store.read(PATH), store.owner(PATH), store.read(PATH)) == (None, None, "web1")


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN)
def test_the_hook_waits_no_longer_for_a_broken_xenstored_than_it_may(broken_for_the_hook: Path, answer: bytes) -> None:
    Broken(broken_for_the_hook, answer)
    began = time.monotonic()
    with pytest.raises(OSError, match="xenstored"):
        Store(0.5).read(PATH)
    assert time.monotonic() - began < busy(0.4)


def test_the_hook_s_client_imports_nothing_that_the_hook_does_not_have_anyway() -> None:
    program = (
        "import sys, os, time, _socket; before = set(sys.modules); sys.path.insert(0, sys.argv[1]); "
        "import xenbw.xen.wire; print(*sorted(set(sys.modules) - before))"
    )
    argv = [sys.executable, "-I", "-S", "-c", program, str(REPO)]
    imported = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert imported == ["__future__", "xenbw", "xenbw.text", "xenbw.xen", "xenbw.xen.wire"]

"""xenbw top in a real pseudo-terminal: what it shows, its keys, and the terminal afterwards, however it ends.

The file is long: all its tests need the same host and pseudo-terminal.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.console import Console, StandIn
from tests.support.pace import busy
from xenbw.clock import boot_id
from xenbw.ledger import viflog
from xenbw.ledger.bindings import NewBinding
from xenbw.report.table import width

ENTERED, LEFT = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
CODES = re.compile(r"\x1b\[[0-9;]*m")
_HEEDING = ("env", "--default-signal=INT,QUIT,HUP")


def attach(console: Console, name: str, interface: str = "lo") -> None:
    """Bind an interface that this machine has to a VM."""
    with console.ledger() as ledger:
        new = NewBinding(
            name=name,
            boot_id=boot_id(),
            domid=7,
            devid=0,
            kind="vif",
            ifindex=socket.if_nametoindex(interface),
            interface=interface,
        )
        viflog.bind(ledger, datetime.now(UTC), new)


@pytest.fixture
def host(console: Console, monkeypatch: pytest.MonkeyPatch) -> Console:
    """A host whose VM web1 has the interface lo; the kernel's counters are its meter."""
    for name, value in {"TERM": "xterm", "LANG": "C.UTF-8"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "LC_ALL", "LC_CTYPE", "PYTHONUTF8", "PYTHONIOENCODING", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    console.config.write_text(console.config.read_text() + '[meter]\nsource = "kernel"\n')
    attach(console, "web1")
    return console


class Top:
    """`xenbw top` on a terminal of 80 columns and 24 lines, of which it is the session's leader."""

    def __init__(self, console: Console, *words: str, wrap: tuple[str, ...] = ()) -> None:
        self.terminal, theirs = os.openpty()
        self.resize(80, 24)
        self.cooked = termios.tcgetattr(self.terminal)
        self.seen = ""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *_HEEDING, *wrap, sys.executable, "-m", "xenbw.cli.main", "top", *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=console.env,
        )
        os.close(theirs)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def hang_up(self) -> None:
        """Close the terminal, once: its number may belong to another file by then."""
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1

    def type(self, keys: bytes) -> None:
        os.write(self.terminal, keys)

    def read(self, seconds: float) -> bool:
        """Read what is shown next. False if the program has closed the terminal."""
        assert select.select([self.terminal], [], [], seconds)[0], f"nothing more is shown after {self.seen[-2000:]!r}"
        try:
            data = os.read(self.terminal, 65536)
        except OSError:  # EIO: no program has the terminal open any more
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    @property
    def lines(self) -> list[str]:
        """The last complete frame, without colours."""
        frames = re.findall(r"\x1b\[H((?:(?!\x1b\[H).)*?)\x1b\[K\x1b\[J", self.seen, re.DOTALL)
        return [CODES.sub("", line).rstrip("\r") for line in frames[-1].split("\x1b[K\r\r\n")] if frames else []

    def shows(self, condition: Callable[[list[str]], bool], seconds: float = 10) -> list[str]:
        """Wait for a frame for which a condition holds."""
        limit = time.monotonic() + busy(seconds)
        while not condition(self.lines):
            assert time.monotonic() < limit, self.lines
            assert self.read(busy(10)), f"the program ended; it showed {self.seen!r}"
        return self.lines

    def ready(self) -> list[str]:
        return self.shows(lambda lines: len(lines) > 4)

    def end(self) -> int:
        """The exit status of the program, which ends by itself."""
        while self.read(busy(10)):
            pass
        return self.process.wait(busy(10))

    def restored(self) -> bool:
        """Whether the terminal is as before: main screen, cursor, cooked mode."""
        return self.seen.count(ENTERED) == self.seen.count(LEFT) and termios.tcgetattr(self.terminal) == self.cooked


@pytest.fixture
def run(host: Console) -> Iterator[Callable[..., Top]]:
    with contextlib.ExitStack() as stack:

        def start(*words: str, wrap: tuple[str, ...] = ()) -> Top:
            top = Top(host, *words, wrap=wrap)

            def finish() -> None:
                top.process.kill()
                top.process.wait()
                top.hang_up()

            stack.callback(finish)
            return top

        yield start


@contextlib.contextmanager
def traffic() -> Iterator[None]:
    """Datagrams on lo, some thousand a second."""
    done = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                while not done.wait(0.001):
                    sender.sendto(bytes(1400), receiver.getsockname())

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def row(lines: list[str], name: str) -> list[str]:
    """The cells of the row of that name."""
    return next((line.split() for line in lines if line.split()[:1] == [name]), [])


def test_it_shows_the_rates_of_traffic_each_second(run: Callable[..., Top]) -> None:
    with traffic():
        top = run()
        first = top.shows(lambda lines: row(lines, "web1")[2:3] > ["0"])
        assert re.fullmatch(r"[\d.]+[kMG]", row(first, "web1")[2])
        clock = first[0].split()[1]
        top.shows(lambda lines: lines[0].split()[1] != clock)
    top.type(b"q")
    assert top.end() == 0
    assert top.restored()


def test_each_key_changes_the_frame_at_once(run: Callable[..., Top]) -> None:
    top = run()
    top.ready()
    for key, sort in {"i": "in", "p": "pps", "x": "refused", "u": "used", "n": "name", "o": "out"}.items():
        top.type(key.encode())
        top.shows(lambda lines, sort=sort: lines[2].startswith(f"sorted by {sort} "))
    top.type(b"r")
    top.shows(lambda lines: "(reversed)" in lines[2])
    assert row(top.lines, "lo") == []
    top.type(b"v")
    top.shows(lambda lines: row(lines, "lo") != [])
    top.type(b"v")
    top.shows(lambda lines: row(lines, "lo") == [])
    top.type(b"?")
    top.shows(lambda lines: any("quit" in line for line in lines[4:]))
    top.type(b"?")
    top.shows(lambda lines: row(lines, "web1") != [])
    # Arrows, a function key, a letter without a meaning, a byte that is no text.
    top.type(b"\x1b[A\x1bOq\x1b[21~z\xff\x13v")
    top.shows(lambda lines: row(lines, "lo") != [])
    top.type(b"vq")
    assert top.end() == 0


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda top: top.type(b"\x03"), 130),
        (lambda top: top.type(b"\x1c"), 131),
        (lambda top: top.process.send_signal(signal.SIGTERM), 143),
        (lambda top: top.process.send_signal(signal.SIGHUP), 129),
    ],
    ids=["Ctrl-C", "Ctrl-backslash", "SIGTERM", "SIGHUP"],
)
def test_however_it_ends_the_terminal_is_as_before(
    run: Callable[..., Top], end: Callable[[Top], None], status: int
) -> None:
    top = run()
    top.ready()
    assert not top.restored()
    end(top)
    assert top.end() == status
    assert top.restored()
    assert top.seen.endswith(LEFT)


def test_a_closed_terminal_ends_it(run: Callable[..., Top]) -> None:
    top = run()
    top.ready()
    top.hang_up()
    assert top.process.wait(busy(10)) == 129


def test_a_closed_terminal_ends_it_under_nohup_too(run: Callable[..., Top]) -> None:
    top = run(wrap=("env", "--ignore-signal=HUP"))
    top.ready()
    top.hang_up()
    assert top.process.wait(busy(10)) == 129


def test_a_terminal_that_takes_no_more_output_does_not_hold_it(run: Callable[..., Top]) -> None:
    top = run()
    top.ready()
    for _ in range(200):
        top.process.send_signal(signal.SIGWINCH)
        time.sleep(0.01)
    top.process.send_signal(signal.SIGTERM)
    assert top.process.wait(busy(10)) == 143
    assert termios.tcgetattr(top.terminal) == top.cooked


def test_another_size_is_drawn_at_once(run: Callable[..., Top]) -> None:
    top = run()
    top.ready()
    at_once = []
    for _ in range(5):
        for columns, last in ((40, "bit/s"), (80, "USED")):
            clock = top.lines[0].split()[1]
            top.resize(columns, 24)
            top.shows(lambda lines, last=last: row(lines, "VM")[-1] == last)
            at_once.append(top.lines[0].split()[1] == clock)
    # The next second may begin between two sizes; without SIGWINCH only that would draw the new one.
    assert any(at_once)
    top.type(b"v")
    top.resize(40, 6)
    top.shows(lambda lines: row(lines, "VM") == ["VM", "STATE", "IN", "bit/s", "OUT", "bit/s"])
    assert len(top.lines) <= 6
    assert max(map(width, top.lines)) <= 39
    top.resize(150, 50)
    top.shows(lambda lines: row(lines, "VM")[-1:] == ["USED"] and row(lines, "lo") != [])


def test_ctrl_z_gives_the_terminal_back_until_the_shell_continues_it(run: Callable[..., Top]) -> None:
    top = run(wrap=("bash", "-c", 'set -m; "$@"; echo stopped; read -r; fg; echo ended $?', "bash"))
    top.ready()
    top.type(b"\x1a")
    while "stopped" not in top.seen:
        assert top.read(busy(10))
    assert top.restored()
    top.seen = ""
    top.type(b"\n")
    top.ready()
    assert ENTERED in top.seen
    top.type(b"q")
    assert top.end() == 0
    assert "ended 0" in top.seen
    assert termios.tcgetattr(top.terminal) == top.cooked


def test_ctrl_z_without_a_shell_that_could_continue_it_changes_nothing(run: Callable[..., Top]) -> None:
    """POSIX: a process group without a parent in its session does not stop."""
    top = run()
    top.ready()
    top.type(b"\x1a")
    top.shows(lambda _: top.seen.count(ENTERED) == 2)
    top.seen = top.seen.rpartition(LEFT)[2]
    top.ready()
    top.type(b"q")
    assert top.end() == 0
    assert top.restored()


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_terminal_that_cannot_move_its_cursor_gets_one_line(
    run: Callable[..., Top], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("TERM", kind)
    top = run()
    assert top.end() == 2
    told = f"(TERM={kind or 'not set'})"
    assert (
        top.seen
        == f"xenbw: the terminal cannot move its cursor {told} (--once prints one table, --json an object a second)\r\n"
    )
    assert top.restored()


def test_without_a_terminal_it_says_which_options_work(host: Console) -> None:
    result = host.run("top")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("xenbw: standard input and output are not a terminal (--once ")
    assert result.stderr.count("\n") == 1


def test_in_the_c_locale_all_is_ascii(host: Console, run: Callable[..., Top], monkeypatch: pytest.MonkeyPatch) -> None:
    attach(host, "東京")
    monkeypatch.setenv("LANG", "C")
    top = run()
    top.shows(lambda lines: row(lines, r"\u6771\u4eac") != [])
    assert top.seen.isascii()


def test_a_wide_name_is_shown_where_the_terminal_can(host: Console, run: Callable[..., Top]) -> None:
    attach(host, "東京")
    top = run()
    top.shows(lambda lines: row(lines, "東京") != [])


def test_no_color_draws_without_colours(run: Callable[..., Top], monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = run()
    coloured.ready()
    assert CODES.search(coloured.seen)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = run()
    plain.ready()
    assert not CODES.search(plain.seen)


def test_a_ledger_that_goes_away_is_a_line_and_the_names_stay(host: Console, run: Callable[..., Top]) -> None:
    top = run()
    top.resize(200, 24)
    top.ready()
    away = host.ledger_path.with_name("away")
    host.ledger_path.rename(away)
    top.shows(lambda lines: "there is no ledger yet" in lines[2])
    assert row(top.lines, "web1") != []
    away.rename(host.ledger_path)
    top.shows(lambda lines: lines[2].startswith("sorted by"))


def test_a_ledger_that_another_process_holds_is_a_line(host: Console, run: Callable[..., Top]) -> None:
    with contextlib.closing(sqlite3.connect(host.ledger_path, isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        top = run()
        assert top.end() == 1
        assert "database is locked (another process holds it; try again)" in top.seen
        assert top.seen.count("\n") == 1


# without a screen


def test_once_is_a_plain_table_with_all_vifs(host: Console) -> None:
    with traffic():
        lines = host.done("top", "--once").splitlines()
    assert row(lines, "VM")[-1] == "USED"
    assert re.fullmatch(r"[\d.]+[kMG]", row(lines, "web1")[2])
    assert row(lines, "lo") != []
    assert not any("\x1b" in line for line in lines)


def test_once_as_json_is_one_object_and_json_one_a_second(host: Console) -> None:
    once: dict[str, Any] = json.loads(host.done("top", "--once", "--json"))
    assert [(vm["name"], vm["vifs"][0]["interface"]) for vm in once["vms"]] == [("web1", "lo")]
    assert (once["meter"], once["note"]) == ("kernel", None)
    argv = [sys.executable, "-m", "xenbw.cli.main", "top", "--json"]
    with subprocess.Popen(argv, env=host.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        seconds = [json.loads(process.stdout.readline())["seconds"] for _ in range(2)]
        # The reader goes away.
        process.stdout.close()
        assert process.wait(busy(10)) == 141
        assert process.stderr.read() == ""
    assert min(seconds) > 0.5


def test_it_asks_no_daemon_writes_no_ledger_and_does_not_need_rich(host: Console, daemon: StandIn) -> None:
    with host.ledger() as ledger:
        before = ledger.meta("rev")
        code = "import sys; sys.modules['rich'] = None; from xenbw.cli.main import main; sys.exit(main(sys.argv[4:]))"
        result = host.run("top", "--once", wrap=(sys.executable, "-c", code))
        assert (result.returncode, result.stderr) == (0, "")
        assert ledger.meta("rev") == before
    assert daemon.asked == []


def test_without_a_ledger_and_counters_the_error_says_what_to_do(console: Console) -> None:
    console.config.write_text(console.config.read_text() + '[meter]\nsource = "kernel"\n')
    result = console.run("top", "--once")
    assert (result.returncode, result.stdout) == (1, "")
    assert "there is no ledger yet (start xenbwd" in result.stderr
    assert not console.ledger_path.exists()


@pytest.mark.parametrize(("version", "hint"), [(3, "restart xenbwd"), (99, "upgrade xenbw")])
def test_a_ledger_of_another_version_is_left_as_it_is(host: Console, version: int, hint: str) -> None:
    with contextlib.closing(sqlite3.connect(host.ledger_path, isolation_level=None)) as db:
        db.execute(f"PRAGMA user_version = {version}")
    result = host.run("top", "--once")
    assert (result.returncode, hint in result.stderr) == (1, True)
    with contextlib.closing(sqlite3.connect(host.ledger_path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (version,)

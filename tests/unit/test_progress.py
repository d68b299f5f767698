"""The bar that long work has on a terminal's standard error, and only there."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.console import Console
from tests.support.oldledger import make_schema1, version
from tests.support.pace import busy
from xenbw.ledger import schema
from xenbw.ledger.ledger import Ledger

_NO_DAEMON = "note: xenbwd is not running: these numbers are as of its last commit\r\n"
_CODE = """
import sys
from xenbw.cli import terminal
terminal._SHORT, terminal._REDRAW = {short}, 0
{more}
from xenbw.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def host(console: Console, monkeypatch: pytest.MonkeyPatch) -> Console:
    """A host with some thousand records in its ledger."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LANG", "C.UTF-8")
    for name in ("LC_ALL", "LC_CTYPE", "PYTHONUTF8", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)
    with console.ledger() as ledger, ledger.transaction():
        for number in range(2000):
            ledger.record(datetime.now(UTC), "note", f"number {number}")
    return console


def run(console: Console, *words: str, short: float = 0, more: str = "", stdout: Path | None = None) -> tuple[int, str]:
    """Run xenbw with a terminal as its standard error, and as its standard output unless that is a file. Returns the
    exit status and what the terminal got. short: seconds of work that have no bar."""
    mine, theirs = os.openpty()
    code = _CODE.format(short=short, more=more)
    with open(stdout or os.devnull, "w") as file:  # noqa: PTH123 (a descriptor for the process)
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdin=subprocess.DEVNULL,
            stdout=file if stdout else theirs,
            stderr=theirs,
            env=console.env,
        )
    os.close(theirs)
    seen = b""
    while select.select([mine], [], [], busy(20))[0]:
        try:
            seen += os.read(mine, 65536)
        except OSError:  # EIO: the program has ended
            break
    os.close(mine)
    return process.wait(busy(10)), seen.decode().replace(_NO_DAEMON, "")


def shares(seen: str) -> list[int]:
    return [int(share) for share in re.findall(r"(\d+) %", seen)]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("writing the ledger", lambda path: ("export", str(path))),
        ("reading the file", lambda path: ("import", str(path))),
    ],
    ids=["export", "import"],
)
def test_export_and_import_have_a_bar_that_grows_and_goes(
    host: Console, tmp_path: Path, what: str, words: Callable[[Path], tuple[str, ...]]
) -> None:
    path = tmp_path / "ledger.jsonl"
    assert host.run("export", str(path)).returncode == 0
    if what == "reading the file":
        host.ledger_path.unlink()
    status, seen = run(host, *words(path), stdout=tmp_path / "said")
    assert status == 0
    assert re.search(rf"\r{what}  █+░+  +\d+ %\x1b\[K", seen)
    assert shares(seen) == sorted(shares(seen))
    assert max(shares(seen)) >= 90
    assert seen.endswith("\r\x1b[K")
    assert "records" in (tmp_path / "said").read_text() or what == "reading the file"


def test_an_export_to_the_terminal_has_no_bar_among_its_records(host: Console) -> None:
    status, seen = run(host, "export")
    assert (status, "writing the ledger" in seen) == (0, False)
    assert "number 1999" in seen


def test_an_export_into_a_pipe_has_its_bar_on_standard_error_and_whole_records(host: Console, tmp_path: Path) -> None:
    status, seen = run(host, "export", stdout=tmp_path / "out")
    assert (status, "writing the ledger" in seen) == (0, True)
    assert (tmp_path / "out").read_text().count("number ") == 2000
    assert "\r" not in (tmp_path / "out").read_text()


def test_the_copy_of_a_ledger_before_its_upgrade_has_a_bar(host: Console, tmp_path: Path) -> None:
    host.ledger_path.unlink()
    make_schema1(host.ledger_path)
    status, seen = run(host, "list", stdout=tmp_path / "said")
    assert (status, version(host.ledger_path)) == (0, schema.VERSION)
    assert "copying the ledger before its upgrade" in seen


def test_the_copy_tells_the_share_that_is_done(tmp_path: Path) -> None:
    told: list[float] = []
    Ledger.open(make_schema1(tmp_path / "ledger.db"), on_progress=told.append).close()
    assert told[-1] == 1.0


def test_an_error_comes_after_the_bar_on_a_line_of_its_own(host: Console, tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert host.run("export", str(path)).returncode == 0
    path.write_text("\n".join(path.read_text().splitlines()[:-500]))
    host.ledger_path.unlink()
    status, seen = run(host, "import", str(path))
    assert status == 1
    assert re.search(r"\r\x1b\[Kxenbw: .*the file ends early", seen)


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_a_dumb_terminal_gets_no_bar(host: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("TERM", kind)
    assert run(host, "export", str(tmp_path / "file"), stdout=tmp_path / "said") == (0, "")


def test_in_the_c_locale_the_bar_is_ascii(host: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "C")
    _, seen = run(host, "export", str(tmp_path / "file"), stdout=tmp_path / "said")
    assert seen.isascii()
    assert re.search(r"writing the ledger  #+-+ ", seen)


def test_short_work_has_no_bar_and_does_not_need_rich(host: Console, tmp_path: Path) -> None:
    more = "sys.modules['rich'] = None"
    arguments = ("export", str(tmp_path / "file"))
    assert run(host, *arguments, short=1e9, more=more, stdout=tmp_path / "said") == (0, "")

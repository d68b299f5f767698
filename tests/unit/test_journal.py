"""Entries in the journal: what systemd-journald receives, and what journalctl makes of the catalog."""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support import manpage
from tests.support.books import open_ledger
from tests.support.guarded import Host, MethodStandIn
from tests.support.host import REPO
from xenbw.config import DaemonSection, LedgerSection, Settings
from xenbw.tell import journal
from xenbw.tell.complaints import Complaints
from xenbw.tell.journal import MESSAGE_IDS, NOTICE, about
from xenbw.tell.log import log_to

CATALOG = REPO / "etc" / "journal" / "xenbw.catalog"
HOSTILE = "web1\nXENBW_VM=web2\nPRIORITY=0\x1b[2J\u202e"


class Journald:
    """The receiving end of the journal's native protocol, and the standard error that systemd gives a service."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "socket"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(0)
        self.stderr = (folder / "stderr").open("w+", encoding="utf-8")

    def entries(self) -> list[dict[str, str]]:
        """The entries since the last call."""
        found = []
        while True:
            try:
                found.append(_parse(self._socket.recv(1 << 20)))
            except BlockingIOError:
                return found

    def lines(self) -> list[str]:
        """All lines on standard error."""
        self.stderr.seek(0)
        return self.stderr.read().splitlines()

    def close(self) -> None:
        self._socket.close()
        self.stderr.close()


def _parse(datagram: bytes) -> dict[str, str]:
    """The fields of one entry; none may come twice."""
    found: dict[str, str] = {}
    while datagram:
        head, _, datagram = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            length = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + length], datagram[8 + length + 1 :]
        assert name.decode() not in found
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journald]:
    """All log lines go to this journal."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with closing(Journald(tmp_path)) as opened:
        status = os.fstat(opened.stderr.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        monkeypatch.setattr(journal, "SOCKET", str(opened.path))
        log_to(opened.stderr, "xenbwd")
        yield opened
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


def test_a_line_is_one_entry_with_its_fields_and_not_on_standard_error_too(journald: Journald) -> None:
    logging.getLogger("xenbw").log(NOTICE, "%s warned", "web1", extra=about("warned", "web1"))
    assert journald.entries() == [
        {
            "MESSAGE": "web1 warned",
            "PRIORITY": "5",
            "SYSLOG_IDENTIFIER": "xenbwd",
            "XENBW_EVENT": "warned",
            "MESSAGE_ID": MESSAGE_IDS["warned"],
            "XENBW_VM": "web1",
        }
    ]
    assert journald.lines() == []


def test_a_line_about_nothing_in_particular_has_no_fields_of_ours(journald: Journald) -> None:
    logging.getLogger("xenbw").error("said")
    assert journald.entries() == [{"MESSAGE": "said", "PRIORITY": "3", "SYSLOG_IDENTIFIER": "xenbwd"}]


def test_a_hostile_name_is_one_field_and_adds_no_other(journald: Journald) -> None:
    logging.getLogger("xenbw").info("%s: seen", HOSTILE, extra=about("bound", HOSTILE))
    (entry,) = journald.entries()
    assert (entry["XENBW_VM"], entry["PRIORITY"]) == (HOSTILE, "6")
    assert entry["MESSAGE"] == r"web1\nXENBW_VM=web2\nPRIORITY=0\x1b[2J\u202e: seen"


def test_a_journal_that_is_gone_or_hangs_gets_the_line_by_standard_error(journald: Journald) -> None:
    log = logging.getLogger("xenbw")
    for number in range(2000):  # nobody reads: the socket's queue is full at some point
        log.info("line %d", number, extra=about("bound", "web1"))
    received = [entry["MESSAGE"] for entry in journald.entries()]
    late = [line.removeprefix("<6>") for line in journald.lines()]
    assert received
    assert late
    assert received + late == [f"line {number}" for number in range(2000)]
    journald.path.unlink()
    log.error("gone")
    assert journald.lines()[-1] == "<3>gone"


def test_a_problem_has_its_event_when_it_begins_and_when_it_is_over(journald: Journald) -> None:
    complaints = Complaints()
    complaints.of("ledger", "disk full")
    complaints.of("ledger", None)
    complaints.obstacles(["a"], 0.0)
    complaints.obstacles([], 60.0)
    events = [entry["XENBW_EVENT"] for entry in journald.entries()]
    assert events == ["problem", "problem-over", "problem", "problem-over"]


def test_a_vm_s_verdicts_are_news_with_its_name_and_their_kind(tmp_path: Path) -> None:
    with closing(open_ledger(tmp_path)) as ledger:
        settings = Settings(daemon=DaemonSection(run_dir=tmp_path / "run"), ledger=LedgerSection(path=ledger.path))
        host = Host(ledger, settings, MethodStandIn())
        host.judge(900)
        host.judge(1001)
        host.new_period()
        host.judge()
        told = [(line.event, line.vm) for line in host.judging.news.take()]
    assert told == [("warned", "web1"), ("null-routed", "web1"), ("released", "web1")]


# the events


def used() -> set[str]:
    """Every event that the code names, and every kind of announcement."""
    named = set[str]()
    for path in (REPO / "xenbw").rglob("*.py"):
        source = path.read_text()
        named |= set(re.findall(r'\babout\("([\w-]+)"', source))
        if "xenbw.tell" in source:
            named |= set(re.findall(r'\bLine\(.*, "([a-z-]+)"', source))
    source = (REPO / "xenbw" / "tell" / "announcement.py").read_text()
    # The line of `unfiltered` is a problem.
    return named | set(re.findall(r'return Announcement\("([\w-]+)"', source)) - {"unfiltered"}


def test_every_event_has_a_message_id_of_its_own_and_every_message_id_an_event() -> None:
    assert used() == MESSAGE_IDS.keys()
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in MESSAGE_IDS.values())


def test_the_manual_page_lists_the_events() -> None:
    listed = manpage.text(manpage.parts(manpage.read("xenbwd.8"), "SH")["JOURNAL"])
    assert [event for event in MESSAGE_IDS if not re.search(rf"(?<![\w-]){event}(?![\w-])", listed)] == []


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="needs systemd's tools")
def test_journalctl_reads_the_catalog_which_explains_every_event(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "lib" / "systemd" / "catalog"
    folder.mkdir(parents=True)
    shutil.copy(CATALOG, folder)

    def journalctl(*words: str) -> str:
        argv = ["journalctl", f"--root={tmp_path}", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    journalctl("--update-catalog")
    listed = dict(line.split(" ", 1) for line in journalctl("--list-catalog").splitlines())
    assert listed.keys() == set(MESSAGE_IDS.values())
    assert all(text.startswith("xenbw: ") for text in listed.values())

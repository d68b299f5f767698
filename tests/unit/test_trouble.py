"""Troubles of the host: the pure rule, and what the daemon tells."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.clock import HandClock, utc
from tests.support.host import REPO
from tests.support.lookout import Lookout
from xenbw.book.sync import Sync, marks_path
from xenbw.clock import Trust
from xenbw.config import CommandSection, DaemonSection, HostSection, LedgerSection, Settings
from xenbw.judge import trouble
from xenbw.judge.trouble import MOST, Known, Present
from xenbw.ledger import alarms, outbox
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.rundir import lastrun

NOW = utc("2026-03-20 12:00")


# the rule


def told(*moments: tuple[float, dict[str, Present]]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    known: dict[str, Known] = {}
    found = []
    for elapsed, present in moments:
        step = trouble.step(known, present, elapsed)
        known = step.known
        found.append((step.began, step.over))
    return found


A = {"a": Present("a fails")}


def test_a_trouble_is_told_once_when_it_lasted_a_minute_and_once_when_it_is_gone_for_one() -> None:
    assert told((0, A), (50, A), (60, A), (70, A), (80, {}), (120, {}), (130, {}), (140, {})) == [
        ((), ()),
        ((), ()),
        (("a",), ()),
        ((), ()),
        ((), ()),
        ((), ()),
        ((), ("a",)),
        ((), ()),
    ]


def test_a_trouble_that_comes_and_goes_is_not_told_and_one_that_was_told_is_not_told_again() -> None:
    flapping = [(float(at), A if at % 20 else {}) for at in range(0, 300, 10)]
    assert told(*flapping) == [((), ())] * 30
    lasting = [(float(at), A) for at in range(-70, 0, 10)]
    assert sum(len(began) for began, _ in told(*lasting, *flapping)) == 1


def test_a_trouble_without_a_moment_is_told_at_once() -> None:
    assert told((5.0, {"a": Present("a", 0.0)})) == [(("a",), ())]


def test_a_trouble_keeps_the_words_with_which_it_was_told() -> None:
    known = trouble.step({}, {"a": Present("1 h behind", 0.0)}, 0.0).known
    assert trouble.step(known, {"a": Present("2 h behind", 0.0)}, 10.0).known["a"].text == "1 h behind"


def test_no_more_than_a_bounded_number_is_told_at_a_time() -> None:
    many = {str(number): Present("x", 0.0) for number in range(3 * MOST)}
    step = trouble.step({}, many, 0.0)
    assert len(step.began) == MOST
    assert trouble.step(step.known, many, 10.0).began == ()


# the daemon


@pytest.fixture
def host(ledger: Ledger, tmp_path: Path) -> Lookout:
    return Lookout(
        ledger,
        Settings(
            host=HostSection("dom0-a"),
            daemon=DaemonSection(run_dir=tmp_path / "run"),
            ledger=LedgerSection(path=ledger.path),
            command=CommandSection(run=("/bin/true",)),
        ),
        HandClock(NOW, 1000.0),
    )


def test_a_problem_that_status_lists_is_told_with_its_key_once_and_once_when_it_is_over(host: Lookout) -> None:
    host.complaints.of("metrics", "no such folder")
    host.go(300)
    host.complaints.of("metrics", None)
    host.go(300)
    text = "metrics: no such folder"
    assert host.events() == [("trouble", text), ("trouble-over", f"no longer: {text}")]
    bodies = [json.loads(one.body) for one in outbox.due(host.ledger, host.clock.wall, host.clock.wall)]
    assert [(one["kind"], one["vm"], one["trouble"], one["host"]) for one in bodies] == [
        ("trouble", None, "metrics", "dom0-a"),
        ("trouble-over", None, "metrics", "dom0-a"),
    ]
    assert bodies[0]["subject"] == "[xenbw] dom0-a: trouble: metrics: no such folder"


def test_a_restart_tells_no_open_trouble_again_and_its_end_once(host: Lookout) -> None:
    host.complaints.of("metrics", "no such folder")
    host.go(100)
    for _ in range(3):
        host.start()
        host.complaints.of("metrics", "no such folder")
        host.go(100)
    assert len(host.events()) == 1
    host.start()
    host.go(100)
    assert [kind for kind, _ in host.events()] == ["trouble", "trouble-over"]
    assert alarms.told(host.ledger, alarms.TROUBLES) == {}


def test_a_guest_s_name_in_an_obstacle_adds_no_line_to_a_mail(host: Lookout) -> None:
    host.complaints.obstacles(["web\n1\x1b: THE BLOCK DOES NOT HOLD"], 0.0)
    host.go(100)
    (sent,) = outbox.due(host.ledger, host.clock.wall, host.clock.wall)
    assert sent.subject == r"[xenbw] dom0-a: trouble: web\n1\x1b: THE BLOCK DOES NOT HOLD"
    assert json.loads(sent.body)["reason"] == "web\n1\x1b: THE BLOCK DOES NOT HOLD"


def test_a_bridge_that_ignores_null_routes_is_not_told_a_second_time(host: Lookout) -> None:
    host.complaints.obstacles(["web1: open", "web2: open"], 0.0)
    host.reconciler.unfiltered.add("web1: open")
    host.go(100)
    assert host.events() == [("trouble", "web2: open")]


def test_a_meter_that_is_not_the_best_one_is_a_trouble(host: Lookout) -> None:
    host.metering.reason = "nft refuses"
    host.go(100)
    assert host.events() == [("trouble", "meter: kernel, since nft refuses")]


def test_a_clock_is_a_trouble_when_it_is_doubted_for_longer_than_it_may_take(host: Lookout) -> None:
    host.clock.synced = False
    host.now.look()
    for _ in range(4):
        host.clock.wall += timedelta(minutes=5)  # somebody sets it
        host.go(600)
        assert host.now.trust is Trust.DOUBTED
    assert [kind for kind, _ in host.events()] == ["trouble"]
    host.go(1500)
    assert [kind for kind, _ in host.events()] == ["trouble", "trouble-over"]


def test_a_doubted_clock_after_a_boot_is_no_trouble(host: Lookout) -> None:
    host.clock.synced, host.clock.elapsed = False, 5.0
    host.start()
    host.go(1500)
    assert host.events() == []


Usage = namedtuple("Usage", "total used free")


def test_a_disk_with_little_room_is_a_trouble_until_it_has_a_tenth_more(
    host: Lookout, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 10**10
    monkeypatch.setattr("shutil.disk_usage", lambda _path: Usage(10**11, 0, free))
    host.go(100)
    free = 150_000_000
    host.go(100)
    (found,) = host.events()
    assert found[1] == f"disk: {host.settings.ledger.path.parent}: 150 MB free, less than [alert] disk; free some space"
    free = 210_000_000
    host.go(200)
    assert len(host.events()) == 1
    free = 230_000_000
    host.go(200)
    assert [kind for kind, _ in host.events()] == ["trouble", "trouble-over"]


def test_without_a_least_no_disk_is_short(host: Lookout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _path: Usage(0, 0, 0))
    host.settings = replace(host.settings, alert=replace(host.settings.alert, disk=0))
    host.start()
    host.go(100)
    assert host.events() == []


def book(behind: timedelta, faults: list[str]) -> SimpleNamespace:
    return SimpleNamespace(behind=lambda: behind, faults=faults, problem="no server", backlog=7)


def test_a_book_is_a_trouble_when_it_is_behind_for_longer_than_an_hour(host: Lookout) -> None:
    host.sync = book(timedelta(minutes=59), [])
    host.go(300)
    assert host.events() == []
    host.sync = book(timedelta(hours=2), ["web1: limit is no number"])
    host.go(300)
    assert host.events() == [
        ("trouble", "the book is behind for 2 h: no server"),
        ("trouble", "web1: limit is no number"),
    ]
    host.sync = None
    host.go(300)
    assert len(host.events()) == 4


def test_a_book_that_was_never_reached_is_behind_since_its_last_acknowledgement(
    host: Lookout,
) -> None:
    sync = Sync(host.settings, host.clock)
    assert sync.behind() == timedelta()
    host.clock.go(hours=2)
    assert sync.behind() == timedelta(hours=2)
    marks_path(host.settings).touch()
    host.clock.wall = utc("2126-01-01")
    assert sync.behind() > timedelta(days=365)
    sync.current_at = utc("2125-12-31")
    assert sync.behind() == timedelta(days=1)


def test_a_restart_by_the_watchdog_is_told_at_once_and_over_after_ten_minutes(host: Lookout) -> None:
    host.ended = "xenbwd hung in work, and its watchdog restarted it"
    for _ in range(3):
        host.start()
        host.go(20)
    assert host.events() == [("trouble", host.ended)]
    host.go(700)
    assert [kind for kind, _ in host.events()] == ["trouble", "trouble-over"]


def test_what_the_ledger_did_not_take_is_told_later(host: Lookout, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise LedgerError("full")

    host.complaints.of("metrics", "no such folder")
    host.go(60)
    with monkeypatch.context() as broken:
        broken.setattr(host.ledger, "set_meta", full)
        with pytest.raises(LedgerError):
            host.go(20)
    assert host.events() == []
    host.go(10)
    assert len(host.events()) == 1


# how the last run ended

_RUN = """
import sys, time
from pathlib import Path
from xenbw.rundir import lastrun

def work():
    print(how, flush=True)
    if sys.argv[2] == "hang":
        time.sleep(60)

how = lastrun.begin(Path(sys.argv[1]))
work()
lastrun.end(Path(sys.argv[1]))
"""


def run(folder: Path, number: signal.Signals | None = None) -> str:
    """A run that ends as it should, or is ended by a signal. Returns how the one before ended."""
    argv = [sys.executable, "-c", _RUN, str(folder), "hang" if number else "end"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=REPO, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        if number:
            process.send_signal(number)
    return said


def test_a_run_knows_how_the_last_one_ended(tmp_path: Path) -> None:
    assert run(tmp_path) == "None"
    assert run(tmp_path, signal.SIGABRT) == "None"
    said = run(tmp_path, signal.SIGKILL)
    assert said.startswith("xenbwd hung, in work (<string>, line ")
    assert said.endswith("), and its watchdog restarted it")
    assert run(tmp_path, signal.SIGSEGV) == "xenbwd was killed or failed, as its log says, and was started again"
    assert run(tmp_path).startswith("xenbwd crashed, in work (<string>, line ")
    assert run(tmp_path) == "None"


def test_a_folder_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    assert lastrun.begin(tmp_path / "none") is None
    lastrun.end(tmp_path / "none")

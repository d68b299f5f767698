"""The lines of xenbwd in the journal: one for each event, with its priority, which no guest's name can break."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tests.support import lonely
from tests.support.books import add_vm, open_ledger, start_vif, vm_of
from tests.support.clock import HandClock, utc
from tests.support.guarded import IP, IP6, NOW, MethodStandIn
from tests.support.guarded import Host as Guarded
from tests.support.pace import until
from xenbw.config import DaemonSection, LedgerSection, MetricsSection, Settings
from xenbw.daemon.cycle import Work
from xenbw.ledger import eventlog
from xenbw.ledger.ledger import Ledger
from xenbw.model import Action, Counters
from xenbw.tell import journal as native
from xenbw.tell.complaints import Complaints
from xenbw.tell.journal import NOTICE
from xenbw.tell.log import log_to
from xenbw.vifs import interfaces

HOSTILE = 'evil\n<0>web2 null-routed: "forged"\x1b[2J\u202e'
SHOWN = 'evil\\n<0>web2 null-routed: "forged"\\x1b[2J\\u202e'
PUT_BACK = "null routes restored, another program changes the firewall: "


class Stderr:
    """The daemon's standard error, with the lines since the last look."""

    def __init__(self, path: Path) -> None:
        self.stream, self._reader = path.open("w", encoding="utf-8"), path.open(encoding="utf-8")
        status = os.fstat(self.stream.fileno())
        self.journal_stream = f"{status.st_dev}:{status.st_ino}"

    def lines(self) -> list[str]:
        return self._reader.read().splitlines()

    def close(self) -> None:
        self.stream.close()
        self._reader.close()


@pytest.fixture
def stderr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stderr]:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with closing(Stderr(tmp_path / "stderr")) as opened:
        yield opened
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.fixture
def journal(stderr: Stderr, monkeypatch: pytest.MonkeyPatch) -> Stderr:
    """Make standard error the journal, which takes no entries with fields, and let the daemon log to it."""
    monkeypatch.setenv("JOURNAL_STREAM", stderr.journal_stream)
    monkeypatch.setattr(native, "SOCKET", "/nonexistent")
    log_to(stderr.stream, "xenbwd")
    return stderr


@pytest.fixture
def settings(tmp_path: Path, ledger: Ledger) -> Settings:
    return Settings(
        daemon=DaemonSection(run_dir=tmp_path / "run"),
        ledger=LedgerSection(path=ledger.path),
        metrics=MetricsSection(None),
    )


# the form of a line


@pytest.mark.parametrize(
    ("level", "priority"), [(logging.ERROR, 3), (logging.WARNING, 4), (NOTICE, 5), (logging.INFO, 6)]
)
def test_in_the_journal_a_line_has_its_priority(journal: Stderr, level: int, priority: int) -> None:
    logging.getLogger("xenbw").log(level, "said")
    assert journal.lines() == [f"<{priority}>said"]


@pytest.mark.parametrize("elsewhere", [None, "1:1"])
def test_on_a_terminal_a_line_has_no_priority_even_if_another_stream_is_the_journal(
    stderr: Stderr, monkeypatch: pytest.MonkeyPatch, elsewhere: str | None
) -> None:
    if elsewhere:
        monkeypatch.setenv("JOURNAL_STREAM", elsewhere)
    log_to(stderr.stream, "xenbwd")
    logging.getLogger("xenbw").error("said")
    assert stderr.lines() == ["said"]


def test_no_name_can_break_a_line_or_forge_another(journal: Stderr) -> None:
    logging.getLogger("xenbw").warning("%s: seen", HOSTILE)
    assert journal.lines() == [f"<4>{SHOWN}: seen"]


def test_a_problem_is_logged_when_it_begins_changes_and_ends(journal: Stderr) -> None:
    complaints = Complaints()
    for problem in ("disk full", "disk full", "locked", None, None):
        complaints.of("ledger", problem)
    assert journal.lines() == ["<3>ledger: disk full", "<3>ledger: locked", "<6>ledger: works again"]
    for minute, obstacles in enumerate((["a"], ["a", "b"], ["b"], [])):
        complaints.obstacles(obstacles, 60.0 * minute)
    assert journal.lines() == ["<3>a", "<3>b", "<6>no longer: a", "<6>no longer: b"]


def test_an_obstacle_that_comes_and_goes_is_logged_once_until_it_is_gone_for_a_minute(journal: Stderr) -> None:
    complaints = Complaints()
    for second in range(0, 100, 5):
        complaints.obstacles(["a"] if second % 10 else [], second)
        assert complaints.all() == (["a"] if second % 10 else [])
    assert journal.lines() == ["<3>a"]
    for second in range(100, 160, 5):
        complaints.obstacles([], second)
    assert journal.lines() == ["<6>no longer: a"]


# lines about blocks


@pytest.fixture
def host(ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Guarded:
    """web1 has 1000 bytes in March and runs; a daemon has enforced the host's blocks once."""
    monkeypatch.setattr(interfaces, "bridge_filtered", lambda _version: True)
    host = Guarded(ledger, settings, MethodStandIn())
    host.judge(0)
    host.enforce()
    return host


def told(host: Guarded) -> list[tuple[int, str]]:
    """The guard's lines for the log, after its blocks are enforced."""
    host.enforce()
    return [(line.level, line.text) for line in host.judging.news.take()]


def newest(host: Guarded) -> str:
    ((_, _, text),) = eventlog.newest(host.ledger, 1)
    return text


def test_a_block_is_one_line_that_says_why_and_which_addresses_in_the_events_own_words(host: Guarded) -> None:
    host.judge(1001)
    ((level, text),) = told(host)
    reason = vm_of(host.ledger, host.web1).state_reason
    assert (level, text) == (NOTICE, f"web1 null-routed: {reason}: {IP}, {IP6}")
    assert newest(host) == text
    host.judge(2000)
    assert told(host) == []


def test_a_warning_is_one_line(host: Guarded) -> None:
    host.judge(900)
    assert told(host) == [(NOTICE, newest(host))]
    assert newest(host).startswith("web1 warned: used 900 B of ")
    host.judge(950)
    assert told(host) == []


def test_a_release_is_one_line(host: Guarded) -> None:
    host.judge(1001)
    told(host)
    host.ledger.set_vm(host.web1, limit_bytes=200_000)
    host.judge()
    assert told(host) == [(NOTICE, "web1 released: its allowance covers its usage again")]


def test_a_vm_that_is_over_with_the_action_warn_is_one_line(host: Guarded) -> None:
    host.ledger.set_vm(host.web1, action=Action.WARN)
    host.judge(1001)
    assert told(host) == [(NOTICE, newest(host))]
    assert newest(host).startswith("web1 over: used ")


def test_a_block_without_a_known_address_says_so(host: Guarded) -> None:
    host.ledger.set_vm(add_vm(host.ledger, "db", NOW), blocked_reason="unpaid")
    host.judge()
    assert told(host) == [(NOTICE, "db null-routed: unpaid: no address of it is known")]


def test_a_block_that_cannot_be_recorded_is_logged_at_once_and_only_once(host: Guarded) -> None:
    with closing(open_ledger(host.ledger.path.parent)) as other, other.transaction():
        for used in (1001, 1002, 1003):
            host.judging.judge(host.roster, {host.web1: Counters(used, 0)}, [host.web1], host.moment)
    ((_, text),) = told(host)
    assert text.startswith("web1 null-routed: ")
    host.judge(1004)
    assert newest(host).startswith("web1 null-routed: ")
    assert told(host) == []


def test_a_block_that_ended_before_it_was_recorded_is_logged_again_when_it_returns(host: Guarded) -> None:
    with closing(open_ledger(host.ledger.path.parent)) as other, other.transaction():
        host.judging.judge(host.roster, {host.web1: Counters(1001, 0)}, [host.web1], host.moment)
    told(host)
    host.ledger.set_vm(host.web1, limit_bytes=500_000)
    host.judge(1001)
    told(host)
    host.judge(500_001)
    assert [text[:17] for _, text in told(host)] == ["web1 null-routed:"]


def test_null_routes_that_another_program_removed_are_restored_with_one_warning(host: Guarded) -> None:
    host.judge(1001)
    told(host)
    host.method.asked.clear()
    assert told(host) == [(logging.WARNING, f"{PUT_BACK}web1: {IP}; web1: {IP6}")]
    assert told(host) == []


def test_a_flushed_firewall_does_not_fill_a_page_of_the_log(host: Guarded) -> None:
    ips = tuple(ip_address(f"192.0.2.{n}") for n in range(100, 110))
    host.ledger.set_vm(host.web1, blocked_reason="abuse", ips=ips)
    host.judge()
    told(host)
    host.method.asked.clear()
    ((_, text),) = told(host)
    assert text.startswith(PUT_BACK)
    assert text.endswith("; 9 more")
    assert text.count("web1: ") == 3


def test_blocks_that_a_start_finds_missing_are_not_logged_as_repairs(host: Guarded) -> None:
    host.judge(1001)
    host.method.asked.clear()
    host.restart()
    host.judge(1001)
    assert told(host) == []


def test_a_blocked_vm_with_a_new_address_is_one_line(host: Guarded) -> None:
    host.judge(1001)
    told(host)
    start_vif(host.ledger, "web1", NOW, domid=1, devid=1, ips="192.0.2.8")
    assert told(host) == [(logging.INFO, "web1 null-routed at 192.0.2.8")]
    assert told(host) == []


def test_a_vm_that_is_removed_while_it_is_blocked_is_one_line(host: Guarded) -> None:
    host.judge(1001)
    told(host)
    host.roster.entries.clear()
    assert told(host) == [(logging.INFO, f"web1 no longer null-routed at {IP}, {IP6}")]


def test_an_address_that_becomes_protected_is_logged_once_as_a_problem(host: Guarded) -> None:
    host.judge(1001)
    told(host)
    host.reconciler.protect = frozenset({ip_network(f"{IP}/32")})
    assert told(host) == []
    assert host.reconciler.problems == [f"web1: {IP} is protected and is not blocked"]


# the daemon's own lines


@pytest.fixture
def clock() -> HandClock:
    return HandClock(NOW, 100_000)


@pytest.fixture
def work(
    ledger: Ledger, settings: Settings, clock: HandClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Work]:
    with lonely.started(settings, ledger, clock, tmp_path, monkeypatch) as work:
        yield work


def cycle(work: Work, clock: HandClock, **later: float) -> None:
    clock.go(**(later or {"seconds": 1}))
    work.cycle([])


def test_a_block_by_the_admin_is_one_line_of_the_daemon_and_no_more(
    work: Work, ledger: Ledger, clock: HandClock, journal: Stderr
) -> None:
    add_vm(ledger, HOSTILE, NOW, blocked_reason="unpaid", ips=(IP, IP6))
    work.sync()
    for _ in range(20):
        cycle(work, clock)
    assert journal.lines() == [f"<5>{SHOWN} null-routed: unpaid: {IP}, {IP6}"]


def test_an_obstacle_is_one_line_for_as_long_as_it_lasts(
    work: Work, ledger: Ledger, settings: Settings, clock: HandClock, journal: Stderr
) -> None:
    add_vm(ledger, "web1", NOW, blocked_reason="unpaid", ips=(IP, IP6))
    work.sync()
    journal.lines()
    work.configure(replace(settings, enforce=replace(settings.enforce, protect=(ip_network(f"{IP}/32"),))))
    cycle(work, clock, minutes=2)
    assert until(lambda: "protect" not in (thread.name for thread in threading.enumerate()))
    for _ in range(20):
        cycle(work, clock)
    assert journal.lines() == [f"<3>web1: {IP} is protected and is not blocked"]


def test_a_clock_that_was_set_is_one_line_and_one_when_it_is_trusted_again(
    work: Work, clock: HandClock, journal: Stderr
) -> None:
    clock.wall, clock.synced = utc("2026-05-01"), False
    for _ in range(5):
        cycle(work, clock)
    assert work.status().document()["clock"] == "doubted"
    clock.synced = True
    for _ in range(5):
        cycle(work, clock)
    said = journal.lines()
    assert said[0].startswith("<4>the clock was set: no period begins and no block ends by itself until")
    assert said[1:] == ["<6>the clock is trusted: it is synchronised"]
    assert work.status().document()["clock"] == "synchronised"


def test_work_that_a_doubted_clock_held_back_is_done_when_the_clock_is_trusted(
    work: Work, ledger: Ledger, clock: HandClock
) -> None:
    web1 = add_vm(ledger, "web1", NOW, limit_bytes=1000)
    work.sync()
    clock.wall, clock.synced = utc("2026-05-20"), False
    cycle(work, clock)
    ledger.set_vm(web1, reset_day=15)
    cycle(work, clock)
    assert vm_of(ledger, web1).period_start == utc("2026-03-01")
    clock.synced = True
    cycle(work, clock)
    assert vm_of(ledger, web1).period_start == utc("2026-05-15")
    assert vm_of(ledger, web1).period_rule == "15@UTC"

"""The daemon takes over a changed configuration as a whole, also while the ledger cannot be written."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import lonely
from tests.support.books import add_vm, open_ledger
from tests.support.clock import HandClock, utc
from tests.support.guarded import MethodStandIn
from xenbw.config import DaemonSection, LedgerSection, MetricsSection, PeriodSection, Settings
from xenbw.daemon.cycle import Work
from xenbw.ledger.ledger import CorruptLedgerError, Ledger

NOW = utc("2026-03-20 12:00")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(open_ledger(tmp_path, patience=0)) as ledger:
        add_vm(ledger, "web1", NOW, limit_bytes=1000)
        yield ledger


@pytest.fixture
def work(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    (tmp_path / "run").mkdir()
    settings = Settings(
        daemon=DaemonSection(run_dir=tmp_path / "run"),
        ledger=LedgerSection(path=ledger.path),
        metrics=MetricsSection(None),
    )
    with lonely.started(settings, ledger, HandClock(NOW, 100_000), tmp_path, monkeypatch) as work:
        monkeypatch.setattr("xenbw.blocks.iptables.Iptables", lambda version: MethodStandIn(f"iptables{version}"))
        yield work


def rule(ledger: Ledger) -> str | None:
    (vm,) = ledger.vms().values()
    return vm.period_rule


def test_periods_begin_on_another_day_once_the_ledger_is_free(work: Work, ledger: Ledger) -> None:
    assert rule(ledger) == "1@UTC"
    changed = replace(work.settings, period=PeriodSection(reset_day=5))
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        work.configure(changed)
    assert (work.settings.period, rule(ledger)) == (changed.period, "1@UTC")
    work.cycle([])
    assert rule(ledger) == "5@UTC"


def test_a_ledger_that_is_found_damaged_meanwhile_ends_the_daemon(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> None:
        raise CorruptLedgerError("the ledger is damaged")

    monkeypatch.setattr("xenbw.judge.roster.Roster.load", damaged)
    with pytest.raises(CorruptLedgerError):
        work.configure(work.settings)

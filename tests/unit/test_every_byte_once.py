"""The first promise, against a real ledger: whatever happens in whatever order, each byte is counted once."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.support.books import BOOT, open_ledger, start_vif
from tests.support.clock import HandClock, utc
from tests.support.effort import cases
from xenbw.accounting import Tally
from xenbw.clock import Tick, Timeline
from xenbw.config import PeriodSection, Settings
from xenbw.judge.roster import Roster
from xenbw.ledger import history, usagelog
from xenbw.ledger.ledger import Alive, LedgerError
from xenbw.model import ZERO, Counters, Reading, Span
from xenbw.report.explanation import explain, total

KOLKATA = ZoneInfo("Asia/Kolkata")
SETTINGS = Settings(period=PeriodSection(timezone=KOLKATA, reset_day=31))
INTERFACES = st.sampled_from(["vif1.0", "vif1.1", "vif2.0"])
AMOUNTS = st.integers(0, 10**12)


@dataclass
class Wire:
    """An interface as it is, and what a reader can know of it: the truth to compare with.

    A fall of either counter is all that tells of its rebirth, so what passed between the last reading that was kept
    and the rebirth cannot be known.
    """

    raw: Counters = ZERO
    passed: Counters = ZERO
    reborn: bool = False
    read: tuple[Counters, Counters] = (ZERO, ZERO)  # (last reading, bytes known until then)
    kept: tuple[Counters, Counters] = (ZERO, ZERO)  # the same, as of the last commit

    def note(self) -> None:
        last, known = self.read
        fell = self.raw.in_bytes < last.in_bytes or self.raw.out_bytes < last.out_bytes
        base = ZERO if fell else last
        grown = Counters(self.raw.in_bytes - base.in_bytes, self.raw.out_bytes - base.out_bytes)
        self.read = (self.raw, known.plus(grown))


class EveryByteOnce(RuleBasedStateMachine):
    """A host with three vifs. It has a method for each thing that may happen there, so more than twenty."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="xenbw-test-"))
        self.ledger = open_ledger(self.folder)
        self.clock = HandClock(utc("2026-01-20"), 5000.0, synced=False)
        self.wires = {"vif1.0": Wire(), "vif1.1": Wire(), "vif2.0": Wire()}
        self.owner = {}
        for name, domid, devid in (("web1", 1, 0), ("web1", 1, 1), ("db", 2, 0)):
            binding = start_vif(self.ledger, name, self.clock.wall, domid=domid, devid=devid)
            self.owner[binding.interface] = binding.vm_id
        self.oldest_period: dict[int, datetime] = {}
        self.settings, self.refiled, self.jumped = SETTINGS, False, False
        self.start_daemon()

    def teardown(self) -> None:
        try:
            self.commits()
            self.check_the_whole_history()
        finally:
            self.ledger.close()
            shutil.rmtree(self.folder)

    def check_the_whole_history(self) -> None:
        for vm_id in set(self.owner.values()):
            wires = [wire for name, wire in self.wires.items() if self.owner[name] == vm_id]
            known = sum(sum(wire.kept[1]) for wire in wires)
            assert sum(sum(usage) for _, usage, _ in usagelog.periods(self.ledger, vm_id)) == known

    # the daemon's steps

    def start_daemon(self) -> None:
        alive = self.ledger.alive()
        last = None if alive is None else Tick(alive.at, alive.elapsed)
        self.timeline = Timeline(alive.at if alive else None, last, 900, self.clock.vouches)
        self.moment = self.timeline.moment(self.clock.tick())
        self.roster, self.tally = Roster(self.ledger, self.settings), Tally()
        self.load_roster()
        for binding in self.ledger.live_bindings().values():
            self.tally.follow(binding, alive.at if alive else binding.started_at)
        usage = usagelog.present(self.ledger)
        for vm_id, entry in self.roster.entries.items():
            self.tally.open_period(vm_id, entry.period.start, usage.get(vm_id, ZERO))

    def load_roster(self) -> set[int]:
        """Load the roster as an unrecorded one foresaw. Returns the VMs whose usage moved to other periods."""
        foreseen = Roster(self.ledger, self.settings, record=False)
        foreseen.load(self.moment)
        lives = {vm_id: foreseen.lives(vm_id) for vm_id in foreseen.entries}
        refiled = self.roster.load(self.moment)
        for vm_id in refiled:
            assert self.roster.lives(vm_id) == lives[vm_id]
            self.refiled = True
            self.oldest_period.pop(vm_id, None)
        return refiled

    def write(self) -> None:
        usagelog.commit(self.ledger, self.tally.pending(), Alive(self.moment.at, self.clock.elapsed, BOOT))
        self.tally.settled()
        for wire in self.wires.values():
            wire.kept = wire.read

    # events

    @rule(interface=INTERFACES, to=AMOUNTS, out=AMOUNTS)
    def traffic_passes(self, interface: str, to: int, out: int) -> None:
        wire = self.wires[interface]
        wire.raw, wire.passed = wire.raw.plus(Counters(to, out)), wire.passed.plus(Counters(to, out))

    @rule(interface=INTERFACES)
    def an_interface_is_reborn(self, interface: str) -> None:
        self.wires[interface].raw, self.wires[interface].reborn = ZERO, True

    @rule(passed=st.sampled_from([1, 10, 1800, 86400, 45 * 86400]))
    def time_passes(self, passed: int) -> None:
        self.clock.go(seconds=passed)

    @rule(jump=st.timedeltas(timedelta(days=-70), timedelta(days=70)), synced=st.booleans())
    def somebody_sets_the_clock(self, jump: timedelta, synced: bool) -> None:
        self.clock.wall, self.clock.synced, self.jumped = self.clock.wall + jump, synced, True

    @rule()
    def the_daemon_reads(self) -> None:
        self.moment = self.timeline.moment(self.clock.tick())
        for wire in self.wires.values():
            wire.note()
            assert wire.reborn or wire.read[1] == wire.passed
        raw = {id_: Reading(self.wires[tracked.interface].raw) for id_, tracked in self.tally.tracked.items()}
        self.tally.credit(raw, self.moment.at, self.roster.period_of(self.moment.trusted))
        if any(self.moment.at >= entry.period.end for entry in self.roster.entries.values()):
            self.write()
        for vm_id in self.roster.roll(self.moment):
            self.tally.open_period(vm_id, self.roster.entries[vm_id].period.start)

    @rule()
    def commits(self) -> None:
        self.write()
        written = usagelog.present(self.ledger)
        for vm_id, usage in self.tally.usage.items():
            assert usage == written.get(vm_id, ZERO)

    @rule()
    def a_commit_fails(self) -> None:
        other = sqlite3.connect(self.ledger.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError):
            self.write()
        other.close()

    @rule()
    def the_daemon_dies_and_starts_again(self) -> None:
        self.ledger.close()
        self.ledger = open_ledger(self.folder)
        for wire in self.wires.values():
            wire.read = wire.kept
        self.start_daemon()

    @rule(reset_day=st.integers(1, 31))
    def the_admin_changes_the_reset_day(self, reset_day: int) -> None:
        self.write()
        self.settings = replace(SETTINGS, period=PeriodSection(timezone=KOLKATA, reset_day=reset_day))
        self.roster.settings = self.settings
        for vm_id in self.load_roster():
            start = self.roster.entries[vm_id].period.start
            self.tally.open_period(vm_id, start, usagelog.of_period(self.ledger, vm_id, start))

    # invariants

    @invariant()
    def the_ledger_has_what_was_read_until_the_last_commit(self) -> None:
        counted = {b.interface: b.counted.usage for b in self.ledger.live_bindings().values()}
        assert counted == {name: wire.kept[1] for name, wire in self.wires.items()}

    @invariant()
    def usage_is_the_sum_of_what_the_interfaces_were_credited(self) -> None:
        for vm_id in set(self.owner.values()):
            usage, credited = ZERO, ZERO
            for _, part, _ in usagelog.periods(self.ledger, vm_id):
                usage = usage.plus(part)
            for binding in self.ledger.live_bindings().values():
                credited = credited.plus(binding.counted.usage) if binding.vm_id == vm_id else credited
            assert usage == credited

    @invariant()
    def the_history_has_the_bytes_that_usage_has(self) -> None:
        for vm_id in set(self.owner.values()):
            times = utc("2000-01-01"), utc("2100-01-01")
            usage, kept = ZERO, ZERO
            for _, amounts in history.values(self.ledger, vm_id, Span.YEAR, *times, KOLKATA):
                kept = kept.plus(amounts.usage)
            for _, part, _ in usagelog.periods(self.ledger, vm_id):
                usage = usage.plus(part)
            assert usage == kept

    @invariant()
    def every_byte_of_an_interface_is_in_one_of_its_periods(self) -> None:
        rows = self.ledger.rows("SELECT binding_id, sum(in_bytes), sum(out_bytes) FROM binding_usage GROUP BY 1")
        found = {row[0]: Counters(row[1], row[2]) for row in rows}
        for id_, binding in self.ledger.live_bindings().items():
            assert found.get(id_, ZERO) == binding.counted.usage

    @invariant()
    def usage_is_explained_by_what_the_interfaces_counted_in_the_period(self) -> None:
        for vm_id, entry in self.roster.entries.items():
            here = usagelog.of_period(self.ledger, vm_id, entry.period.start)
            lines = explain(self.roster.lives(vm_id), here, ZERO)
            assert total(lines) == here
            # Nobody knows in which hours an interface counted what, once these were filed anew; and what a clock that
            # was set back puts where, it takes from elsewhere.
            assert self.refiled or all(line.binding for line in lines)
            assert self.jumped or all(min(line.usage) >= 0 for line in lines)

    @invariant()
    def nothing_is_counted_that_did_not_pass(self) -> None:
        for wire in self.wires.values():
            assert wire.read[1].in_bytes <= wire.passed.in_bytes
            assert wire.read[1].out_bytes <= wire.passed.out_bytes

    @invariant()
    def no_period_ever_opens_again(self) -> None:
        for vm in self.ledger.vms().values():
            assert vm.period_start is not None
            assert vm.period_start >= self.oldest_period.get(vm.id, vm.period_start)
            self.oldest_period[vm.id] = vm.period_start


EveryByteOnce.TestCase.settings = settings(max_examples=cases(12, 60), stateful_step_count=40, deadline=None)
TestEveryByteOnce = EveryByteOnce.TestCase

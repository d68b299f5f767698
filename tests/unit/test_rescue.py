"""A damaged ledger is set aside, its readable rows go into a new one, and no VM is released by that."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.books import BOOT, add_vm, start_vif
from tests.support.clock import utc
from tests.support.damage import spoil
from tests.support.pace import busy
from xenbw.accounting import Pending, Share
from xenbw.book import changes
from xenbw.ledger import aliases, blocklog, eventlog, history, kept, portions, rescue, schema, usagelog
from xenbw.ledger.ledger import Alive, Ledger, LedgerError, to_text
from xenbw.model import ZERO, Action, Amounts, Cause, Counters, Span, State
from xenbw.report.explanation import UNKNOWN, explain

NOW = utc("2026-03-20 12:00")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with one VM in it that is blocked, and whose process is gone."""
    path = tmp_path / "ledger.db"
    with closing(Ledger.open(path, create=True)) as ledger:
        vm_id = add_vm(ledger, "web1", NOW, limit_bytes=1000, reset_day=7)
        blocklog.block(ledger, vm_id, Cause.QUOTA, "over", NOW, None)
    return path


def test_a_sound_ledger_is_opened_as_it_is(path: Path) -> None:
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        assert ledger.vm_named("web1") is not None
    assert [file.name for file in path.parent.glob("*damaged*")] == []


def test_a_ledger_found_damaged_in_use_is_replaced_at_the_next_start_with_its_rows(path: Path) -> None:
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        vm = ledger.vm_named("web1")
        assert vm is not None
        assert (vm.limit_bytes, vm.reset_day) == (1000, 7)
        assert vm.id in ledger.active_blocks()
        assert any("set aside" in text for _, _, text in eventlog.newest(ledger, 5))
    assert path.with_name("ledger.db.damaged-20260320T120000Z").exists()
    with closing(rescue.open_or_replace(path, None, utc("2026-03-21"))):
        pass
    assert len(list(path.parent.glob("*damaged*[Z]"))) == 1


def test_a_throttled_vm_keeps_its_rates_and_hard_limit_when_the_ledger_is_replaced(path: Path) -> None:
    terms = {"rate": 10**7, "rate_in": 2 * 10**7, "hard_limit_bytes": 2000, "state": State.THROTTLED}
    with closing(Ledger.open(path)) as ledger:
        vm_id = add_vm(ledger, "web2", NOW, action=Action.THROTTLE, **terms)
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        vm = ledger.vms()[vm_id]
        assert {name: getattr(vm, name) for name in terms} == terms
        assert (vm.action, vm_id in ledger.active_blocks()) == (Action.THROTTLE, False)


def test_which_vms_used_another_mac_is_known_after_the_ledger_is_replaced(path: Path) -> None:
    tomorrow = NOW + timedelta(days=1)
    with closing(Ledger.open(path)) as ledger:
        vm_id = add_vm(ledger, "web2", NOW)
        aliases.keep(ledger, {vm_id: tomorrow})
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        assert aliases.known(ledger, NOW) == {vm_id: tomorrow}


def test_a_vm_that_gets_the_id_of_a_lost_one_is_not_taken_to_have_used_another_mac(path: Path) -> None:
    with closing(Ledger.open(path)) as ledger:
        aliases.keep(ledger, {7: NOW + timedelta(days=1)})
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        assert aliases.known(ledger, NOW) == {}


class Killed(BaseException):
    """Ends the work as a kill of the process does: nothing is tidied up."""


# The new ledger is whole; the damaged one's two logs are moved, it gets another name, and the new one takes its place.
STEPS = ("rename", "rename", "rename", "hardlink_to", "replace")


@pytest.mark.parametrize("at", range(len(STEPS)))
@pytest.mark.parametrize("used_meanwhile", [False, True])
def test_a_rescue_that_is_killed_between_any_of_its_steps_loses_no_vm(
    path: Path, monkeypatch: pytest.MonkeyPatch, at: int, used_meanwhile: bool
) -> None:
    held = Ledger.open(path)  # keeps the files of the log
    rescue.mark(path)
    made: list[str] = []

    def dies(name: str) -> Callable[..., object]:
        real = getattr(Path, name)

        def step(*paths: Path) -> object:
            if len(made) == at:
                raise Killed
            made.append(name)
            return real(*paths)

        return step

    with monkeypatch.context() as patch, pytest.raises(Killed):
        for name in set(STEPS):
            patch.setattr(Path, name, dies(name))
        rescue.open_or_replace(path, None, NOW)
    assert tuple(made) == STEPS[:at]
    held.close()
    if used_meanwhile:
        with closing(Ledger.open(path, create=True)) as ledger:
            add_vm(ledger, "web9", NOW)
    with closing(rescue.open_or_replace(path, None, NOW + timedelta(seconds=9))) as ledger:
        vm = ledger.vm_named("web1")
        assert vm is not None
        assert (vm.limit_bytes, vm.id in ledger.active_blocks()) == (1000, True)
        assert "set aside as" in (ledger.damage or "")
        assert ledger.kept == {vm.id: "web1"}
    aside = next(path.parent.glob("*.damaged-*[Z]"))
    with closing(sqlite3.connect(aside)) as db:
        assert ("web1",) in db.execute("SELECT name FROM vm").fetchall()
    with closing(rescue.open_or_replace(path, None, NOW + timedelta(seconds=18))) as ledger:
        assert ledger.damage is None
    assert not [*path.parent.glob("*repla*")]


def test_on_a_file_system_without_hard_links_a_ledger_is_replaced_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        assert ledger.vm_named("web1") is not None
    assert path.with_name("ledger.db.damaged-20260320T120000Z").exists()


def test_nobody_writes_into_a_ledger_that_is_being_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, refused = kept.keep, list[LedgerError]()

    def interrupted(*arguments: Any) -> dict[int, str]:
        with closing(Ledger.open(path, patience=0)) as other, pytest.raises(LedgerError) as told:
            add_vm(other, "web9", NOW)
        refused.append(told.value)
        return keep(*arguments)

    monkeypatch.setattr(kept, "keep", interrupted)
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        assert (ledger.vm_named("web9"), len(refused)) == (None, 1)


def test_a_command_that_waited_for_the_replacement_is_told_to_try_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, began, told = kept.keep, threading.Event(), list[LedgerError]()

    def command() -> None:
        with closing(Ledger.open(path)) as other:
            began.set()
            try:
                add_vm(other, "web9", NOW)
            except LedgerError as error:
                told.append(error)

    thread = threading.Thread(target=command)

    def slow(*arguments: Any) -> dict[int, str]:
        thread.start()
        assert began.wait(busy(5))
        time.sleep(0.3)  # it waits for the lock
        return keep(*arguments)

    monkeypatch.setattr(kept, "keep", slow)
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        thread.join(busy(10))
        assert (ledger.vm_named("web9"), [error.hint for error in told]) == (None, ["try again"])


@pytest.mark.parametrize("lost", [2**60, 2**63 - 1])
def test_an_impossible_id_of_a_vm_leaves_the_revs_in_order(path: Path, lost: int) -> None:
    with closing(Ledger.open(path)) as ledger, ledger.transaction() as db:
        add_vm(ledger, "web2", NOW)
        db.execute("UPDATE vm SET id = ? WHERE name = 'web2'", (lost,))
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        assert ledger.meta("rev") < 100
        add_vm(ledger, "web3", NOW)


def test_a_rescue_that_is_killed_before_its_commit_begins_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise Killed

    rescue.mark(path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(kept, "keep", killed)
        rescue.open_or_replace(path, None, NOW)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        vm = ledger.vm_named("web1")
        assert vm is not None
        assert (vm.limit_bytes, vm.id in ledger.active_blocks()) == (1000, True)


def test_a_rescue_gives_signs_of_life(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(Ledger.open(path)) as ledger, ledger.transaction() as db:
        rows = ((1, f"e{number}", "x" * 50) for number in range(20_000))
        db.executemany("INSERT INTO event (at, kind, text, rev) VALUES ('2026-03-01', ?2, ?3, ?1)", rows)
    monkeypatch.setattr(rescue, "_BEAT", 0.0)
    rescue.mark(path)
    told: list[float] = []
    with closing(rescue.open_or_replace(path, None, NOW, told.append)):
        assert len(told) > 3


def test_the_book_gets_the_usage_of_a_replaced_ledger_vm_by_vm(path: Path) -> None:
    with closing(Ledger.open(path)) as ledger, ledger.transaction() as db:
        for vm_id in range(2, 12):
            add_vm(ledger, f"vm{vm_id}", NOW)
            hours = ((vm_id, f"2026-03-{day:02}T{hour:02}:00:00.000000+00:00") for day in (1, 2) for hour in range(24))
            db.executemany(
                "INSERT INTO usage (vm_id, period_start, hour, in_bytes, out_bytes, rev)"
                " VALUES (?, '2026-03-01T00:00:00.000000+00:00', ?, 5, 5, 1)",
                hours,
            )
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        mark, sizes = 0, list[int]()
        while (chunk := changes.after(ledger, "usage", mark, 40)).rows:
            sizes.append(len(chunk.rows))
            mark = chunk.upto
        assert (max(sizes), sum(sizes)) == (48, 480)
        assert mark <= ledger.meta("rev")


def test_usage_that_was_carried_over_is_explained_as_of_an_unknown_interface(path: Path) -> None:
    march = utc("2026-03-01")
    with closing(Ledger.open(path)) as ledger:
        binding = start_vif(ledger, "web1", NOW, domid=1)
        amount = Counters(10, 1)
        pending = Pending((), ((binding.vm_id, Share(march, NOW, *amount, 0)),), ((binding.id, march, amount),))
        usagelog.commit(ledger, pending, Alive(NOW, 1.0, BOOT))
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        lives = portions.lives(ledger, binding.vm_id, march)
        (line,) = explain(lives, usagelog.of_period(ledger, binding.vm_id, march), ZERO)
        hours = history.values(ledger, binding.vm_id, Span.HOUR, march, utc("2026-04-01"), UTC)
    assert (line.usage, line.why) == (amount, UNKNOWN)
    assert hours == [(NOW, Amounts(*amount))]


def test_a_blocked_vm_whose_row_is_unreadable_stays_blocked_by_name_and_address(path: Path) -> None:
    path.write_bytes(b"no ledger " * 1000)
    with closing(rescue.open_or_replace(path, {"web1": ["192.0.2.7"], "other": []}, NOW)) as ledger:
        vms = {vm.name: vm for vm in ledger.vms().values()}
        assert {vms[name].id for name in ("web1", "other")} == set(ledger.active_blocks())
        assert [str(address) for address in vms["web1"].ips] == ["192.0.2.7"]


def test_a_newer_ledger_is_not_taken_for_a_damaged_one(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="newer xenbw"):
        rescue.open_or_replace(path, None, NOW)
    assert [file.name for file in path.parent.glob("*damaged*")] == []


OLDER = range(1, schema.VERSION)
CARRIED = ("vm", "block", "usage", "binding", "event", "elsewhere", "meta")


@pytest.mark.parametrize("version", OLDER)
@pytest.mark.parametrize("table", CARRIED)
def test_all_readable_rows_of_a_damaged_older_ledger_are_carried_over(tmp_path: Path, version: int, table: str) -> None:
    path = tmp_path / "old.db"
    many_vms(path, version)
    spoil(path, table)
    with closing(rescue.open_or_replace(path, None, NOW)) as ledger:
        vms = ledger.vms()
        assert [vm.name for vm in vms.values()] == [f"vm{number:02}" for number in range(50)]
        assert {vms[id_].name for id_ in ledger.active_blocks()} == {"vm07", "vm08"}
        if table != "vm":
            assert {(vm.limit_bytes, vm.reset_day) for vm in vms.values()} == {(5000, 7)}
        used = {vm.name: usagelog.of_period(ledger, id_, utc("2026-03-01")).in_bytes for id_, vm in vms.items()}
        assert used == {f"vm{number:02}": 0 if table == "usage" else 1000 + number for number in range(50)}


def many_vms(path: Path, version: int) -> None:
    """A ledger of that schema with fifty VMs, two of them blocked."""
    at, march = str(to_text(NOW)), str(to_text(utc("2026-03-01")))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for script in schema.MIGRATIONS[:version]:
            for statement in script.split(";\n"):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {version}")
        for number in range(50):
            vm = number + 1
            db.execute(
                "INSERT INTO vm (id, name, found_at, added_at, limit_bytes, reset_day, rev)"
                " VALUES (?, ?, ?, ?, 5000, 7, 1)",
                (vm, f"vm{number:02}", at, at),
            )
            db.execute("INSERT INTO usage VALUES (?, ?, ?, ?, 0, 0, 1)", (vm, march, at, 1000 + number))
            if number in (7, 8):
                db.execute(
                    "INSERT INTO block (vm_id, cause, reason, since, rev) VALUES (?, 'quota', 'over', ?, 1)", (vm, at)
                )
            db.execute(
                "INSERT INTO binding (vm_id, boot_id, domid, devid, kind, ifindex, interface, started_at, rev)"
                " VALUES (?, ?, ?, 0, 'vif', ?, ?, ?, 1)",
                (vm, BOOT, vm, vm, f"vif{vm}.0", at),
            )

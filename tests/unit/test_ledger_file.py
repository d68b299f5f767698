from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.books import BOOT, add_vm, open_ledger, start_vif
from tests.support.clock import utc
from xenbw.ledger import blocklog, check, eventlog, outbox, schema, usagelog
from xenbw.ledger.ledger import Alive, CorruptLedgerError, Ledger, LedgerError
from xenbw.model import Cause

NOW = utc("2026-03-20 12:00")
MARCH = utc("2026-03-01")
ALIVE = Alive(NOW, 1.5, BOOT)
NOBODY = 65534


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process is in the middle of a write."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


# opening


def test_a_missing_ledger_is_made_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.db"
    with pytest.raises(LedgerError, match="there is no ledger yet"):
        Ledger.open(path)
    assert not path.parent.exists()
    Ledger.open(path, create=True).close()
    assert path.stat().st_mode & 0o007 == 0


def test_a_new_ledger_has_the_present_schema(ledger: Ledger) -> None:
    assert ledger.rows("PRAGMA user_version")[0][0] == schema.VERSION
    check.check(ledger, 10)


def test_opening_an_up_to_date_ledger_writes_nothing(ledger: Ledger) -> None:
    ledger.changed_by_others()
    Ledger.open(ledger.path).close()
    assert not ledger.changed_by_others()


def test_a_ledger_of_a_newer_schema_is_refused_and_not_changed_by_a_byte(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE future (x)")
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = path.read_bytes()
    for create in (False, True):
        with pytest.raises(LedgerError, match="written by a newer xenbw"):
            Ledger.open(path, create=create)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"this is no database\n" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_ledger_is_reported_as_damaged_and_not_changed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    with pytest.raises(CorruptLedgerError, match="the ledger is damaged"):
        Ledger.open(path, create=True)
    assert path.read_bytes() == content


def test_damage_inside_the_file_is_found_by_the_check(tmp_path: Path) -> None:
    with closing(open_ledger(tmp_path)) as ledger:
        for number in range(5000):
            ledger.record(NOW, "kind", f"text {number}" * 10)
        path = ledger.path
    damaged = bytearray(path.read_bytes())
    for page in range(len(damaged) // 8192, len(damaged) // 4096):
        damaged[page * 4096 : page * 4096 + 64] = b"\xee" * 64
    path.write_bytes(damaged)
    with closing(Ledger.open(path)) as ledger, pytest.raises(CorruptLedgerError):
        check.check(ledger, 10)
    assert path.read_bytes() == damaged


def test_a_failed_migration_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "CREATE TABLE half (x);\nCREATE TABLE vm (x)"))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with pytest.raises(LedgerError):
        open_ledger(tmp_path)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 0
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0


def test_an_older_ledger_is_upgraded_with_all_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(open_ledger(tmp_path)) as ledger:
        ledger.meet("web1", NOW)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, "ALTER TABLE vm ADD COLUMN colour TEXT"))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with closing(open_ledger(tmp_path)) as ledger:
        assert [tuple(row) for row in ledger.rows("SELECT name, colour FROM vm")] == [("web1", None)]
        assert ledger.rows("PRAGMA user_version")[0][0] == schema.VERSION


def test_several_processes_can_make_one_ledger_at_once(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / f"{number}.db"
        starter, start = os.pipe()
        children = [_begin_when_told(path, starter, start) for _ in range(4)]
        os.close(starter)
        os.close(start)
        assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
        with closing(Ledger.open(path)) as ledger:
            check.check(ledger, 10)


def _begin_when_told(path: Path, starter: int, start: int) -> int:
    """A process that opens the ledger as soon as `start` is closed everywhere; it exits with 0 if that worked."""
    child = os.fork()
    if child == 0:
        os.close(start)
        os.read(starter, 1)
        try:
            Ledger.open(path, create=True).close()
        except LedgerError:
            os._exit(1)
        os._exit(0)
    return child


# transactions


def test_a_transaction_is_all_or_nothing_with_all_nested_ones(ledger: Ledger) -> None:
    vm_id = add_vm(ledger, "web1", NOW)

    def change_and_fail() -> None:
        with ledger.transaction():
            blocklog.block(ledger, vm_id, Cause.QUOTA, "over", NOW, None)
            outbox.queue(ledger, NOW, "subject", "body")
            ledger.record(NOW, "kind", "text", vm_id)
            raise KeyError

    with pytest.raises(KeyError):
        change_and_fail()
    assert ledger.active_blocks() == {}
    assert outbox.waiting(ledger) == 0
    assert eventlog.newest(ledger, 10) == []


def test_every_row_of_a_transaction_has_its_rev_which_only_grows(ledger: Ledger) -> None:
    with ledger.transaction():
        first = add_vm(ledger, "a", NOW)
        second = add_vm(ledger, "b", NOW)
    third = add_vm(ledger, "c", NOW)
    revs = {row["id"]: row["rev"] for row in ledger.rows("SELECT id, rev FROM vm")}
    assert revs[first] == revs[second] < revs[third]


def test_two_connections_see_and_notice_each_others_changes(ledger: Ledger) -> None:
    with closing(Ledger.open(ledger.path)) as other:
        ledger.changed_by_others()
        add_vm(ledger, "mine", NOW)
        assert not ledger.changed_by_others()
        add_vm(other, "theirs", NOW)
        assert ledger.changed_by_others()
        assert not ledger.changed_by_others()
        assert (
            {vm.name for vm in ledger.vms().values()} == {vm.name for vm in other.vms().values()} == {"mine", "theirs"}
        )


def test_a_reader_does_not_wait_for_a_writer_and_sees_no_unfinished_transaction(ledger: Ledger) -> None:
    with closing(Ledger.open(ledger.path)) as other, ledger.transaction():
        add_vm(ledger, "web1", NOW)
        assert other.vms() == {}


def test_a_writer_without_patience_is_told_that_the_ledger_is_locked(ledger: Ledger) -> None:
    with locked(ledger.path), pytest.raises(LedgerError, match="another process holds it"):
        ledger.meet("web1", NOW)
    assert ledger.meet("web1", NOW).name == "web1"


def test_a_writer_waits_for_another_to_finish(ledger: Ledger) -> None:
    def release() -> None:
        time.sleep(0.1)
        held.set()

    held = threading.Event()
    taken = threading.Event()

    def hold() -> None:
        with locked(ledger.path):
            taken.set()
            held.wait()

    threads = [threading.Thread(target=hold), threading.Thread(target=release)]
    threads[0].start()
    taken.wait()
    threads[1].start()
    with closing(Ledger.open(ledger.path, patience=3.0)) as patient:
        patient.meet("web1", NOW)
    for thread in threads:
        thread.join()
    assert ledger.vm_named("web1") is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_writing_a_read_only_ledger_is_an_error_that_says_so() -> None:
    with tempfile.TemporaryDirectory(prefix="xenbw-test-") as name:
        folder = Path(name)
        with closing(open_ledger(folder)) as daemon:
            add_vm(daemon, "web1", NOW)
            folder.chmod(0o755)
            for file in folder.iterdir():
                file.chmod(0o644)
            os.seteuid(NOBODY)
            try:
                with closing(Ledger.open(daemon.path)) as ledger, pytest.raises(LedgerError, match="are you root"):
                    ledger.meet("web2", NOW)
            finally:
                os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_an_unreadable_ledger_is_an_error_without_a_traceback() -> None:
    with tempfile.TemporaryDirectory(prefix="xenbw-test-") as name:
        open_ledger(Path(name)).close()
        os.seteuid(NOBODY)
        try:
            with pytest.raises(LedgerError, match="root"):
                Ledger.open(Path(name) / "ledger.db")
        finally:
            os.seteuid(0)


WRITER = """
import sys
from pathlib import Path
from tests.support.books import BOOT
from tests.support.clock import utc
from xenbw.accounting import HOUR, Pending, Share
from xenbw.ledger import usagelog
from xenbw.ledger.ledger import Alive, Ledger
from xenbw.model import Amounts, Counters, Mark

ledger, now = Ledger.open(Path(sys.argv[1])), utc("2026-03-20 12:00")
(binding,) = ledger.live_bindings().values()
number = binding.counted.in_bytes
while True:
    number += 2
    counted, mark = Amounts(number, number), Mark(Counters(number, number))
    shares = tuple((binding.vm_id, Share(utc("2026-03-01"), now + n * HOUR, 1, 1, 0)) for n in (0, 1))
    usagelog.commit(ledger, Pending(((binding.id, counted, mark, now),), shares), Alive(now, 1.0, BOOT))
    print(number, flush=True)
"""


def test_a_process_killed_in_the_middle_of_its_writes_leaves_whole_commits(ledger: Ledger) -> None:
    binding = start_vif(ledger, "web1", NOW, domid=1)
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(ledger.path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        told = [int(writer.stdout.readline()) for _ in range(50)][-1]
        os.kill(writer.pid, signal.SIGKILL)
        told = max([told, *(int(line) for line in writer.stdout.read().split("\n") if line)])
        writer.wait()
        writer.stdout.close()
        with closing(Ledger.open(ledger.path)) as after:
            check.check(after, 10)
            counted = after.live_bindings()[binding.id].counted
            ((_, usage, _),) = usagelog.periods(after, binding.vm_id)
            hours = usagelog.hours(after, binding.vm_id, MARCH)
        assert counted.usage == usage
        assert counted.in_bytes in (told, told + 2)
        assert hours[0][1] == hours[1][1]

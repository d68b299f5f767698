"""A ledger of an earlier version is brought up to date: all it holds stays, a copy of it is made before, and whatever
happens meanwhile leaves the one schema or the other, whole.

The file is long: all its tests upgrade the same ledgers of earlier versions.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.books import BOOT
from tests.support.clock import utc
from tests.support.effort import cases
from tests.support.killer import killed_at
from tests.support.oldledger import Rows, make_schema1, narrowed, rows, sound, version
from xenbw.ledger import backup, bindings, check, file, outbox, rescue, schema
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.ledger.outbox import Channel
from xenbw.model import Action, State

NOW = utc("2026-03-21 12:00")
AT = bindings.stamp(NOW.timestamp())
MIB = 1024**2

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make_schema1(tmp_path / "ledger.db")


@pytest.fixture
def before(path: Path) -> Rows:
    return rows(path)


def copy_of(path: Path) -> Path:
    return path.with_name("ledger.db.schema1")


def files(path: Path) -> set[str]:
    """What is there, but for what SQLite keeps beside a file while it is open, and the lock of who was killed."""
    return {entry.name for entry in path.parent.iterdir() if not entry.name.endswith(("-wal", "-shm", ".begin"))}


# what stays


def test_the_ledger_of_0_1_0_has_rows_in_every_table_and_the_schema_that_this_program_calls_the_first(
    tmp_path: Path, path: Path, before: Rows
) -> None:
    assert all(before.values())
    with closing(sqlite3.connect(tmp_path / "new.db")) as new, closing(sqlite3.connect(path)) as old:
        for statement in schema.MIGRATIONS[0].split(";\n"):
            new.execute(statement)
        tables = [row[0] for row in new.execute("SELECT name FROM sqlite_schema ORDER BY name")]
        assert tables == [row[0] for row in old.execute("SELECT name FROM sqlite_schema ORDER BY name")]
        for table in before:
            assert columns(new, table) == columns(old, table)


def columns(db: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    return db.execute(f"PRAGMA table_info({table})").fetchall()


def test_every_row_of_an_older_ledger_is_kept_by_the_upgrade(path: Path, before: Rows) -> None:
    with closing(Ledger.open(path)) as ledger:
        check.check(ledger, 10)
        assert ledger.rows("PRAGMA user_version")[0][0] == schema.VERSION
        after = rows(path)
    assert narrowed(after, before) == before


@pytest.mark.parametrize("version", range(1, schema.VERSION))
def test_a_vm_of_an_older_ledger_has_no_rate_and_no_hard_limit_until_they_are_set(tmp_path: Path, version: int) -> None:
    path = tmp_path / "older.db"
    with closing(sqlite3.connect(path)) as db:
        for script in schema.MIGRATIONS[:version]:
            db.executescript(script)
        db.execute("INSERT INTO vm (name, found_at, limit_bytes, action, rev) VALUES ('web1', ?, 5, 'warn', 1)", (AT,))
        db.execute(f"PRAGMA user_version = {version}")
        db.commit()
    with closing(Ledger.open(path)) as ledger:
        vm = ledger.vm_named("web1")
        assert vm is not None
        assert (vm.limit_bytes, vm.action) == (5, Action.WARN)
        assert (vm.rate, vm.rate_in, vm.hard_limit_bytes) == (None, None, None)
        ledger.set_vm(vm.id, action=Action.THROTTLE, rate=10**7, hard_limit_bytes=9, state=State.THROTTLED)
    with closing(Ledger.open(path)) as ledger:
        vm = ledger.vm_named("web1")
        assert vm is not None
        assert (vm.action, vm.rate, vm.rate_in, vm.hard_limit_bytes) == (Action.THROTTLE, 10**7, None, 9)
        assert vm.state is State.THROTTLED


def test_messages_that_waited_in_an_older_ledger_go_by_mail(path: Path) -> None:
    with closing(Ledger.open(path)) as ledger:
        waiting = outbox.waiting_by_channel(ledger)
    assert (waiting[Channel.MAIL].count, waiting[Channel.MAIL].failure) == (2, None)
    assert waiting[Channel.COMMAND].count == 0


def test_later_schemas_only_add_tables_and_columns_that_an_older_program_need_not_name(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        old = {table: columns(db, table) for table in rows(path)}
    Ledger.open(path).close()
    with closing(sqlite3.connect(path)) as db:
        for table, known in old.items():
            now = columns(db, table)
            assert now[: len(known)] == known
            for _, _, _, needed, default, _ in now[len(known) :]:
                assert not needed or default is not None
        # 0.1.0 inserts into these by position.
        assert all(columns(db, table) == old[table] for table in ("meta", "usage", "elsewhere", "reading"))


# the copy


def test_a_copy_of_the_older_ledger_is_made_whole_beside_it(path: Path, before: Rows) -> None:
    Ledger.open(path).close()
    assert files(path) == {"ledger.db", "ledger.db.schema1"}
    copy = copy_of(path)
    assert copy.stat().st_mode & 0o777 == 0o640
    assert (version(copy), sound(copy)) == (1, True)
    assert rows(copy) == before


def test_the_copy_has_the_rows_of_the_wal_and_other_processes_can_write_meanwhile(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as daemon:
        daemon.execute("PRAGMA wal_autocheckpoint = 0")
        daemon.execute("INSERT INTO meta VALUES ('only in the -wal file', 1)")

        def write(_done: float) -> None:
            daemon.execute("UPDATE meta SET value = value + 1 WHERE key = 'only in the -wal file'")

        Ledger.open(path, on_progress=write).close()
        assert ("only in the -wal file", 2) in daemon.execute("SELECT * FROM meta").fetchall()
    with closing(sqlite3.connect(copy_of(path))) as copy:
        assert ("only in the -wal file", 1) in copy.execute("SELECT * FROM meta").fetchall()
    assert sound(copy_of(path))


def test_a_new_ledger_and_one_that_is_up_to_date_are_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    for _ in range(2):
        Ledger.open(path, create=True).close()
    assert files(path) == {"ledger.db"}


def test_a_copy_can_be_put_back(path: Path, before: Rows) -> None:
    with closing(Ledger.open(path)) as ledger:
        ledger.meet("later", NOW)
    copy_of(path).replace(path)
    assert (version(path), rows(path)) == (1, before)
    Ledger.open(path).close()
    assert version(path) == schema.VERSION


def test_a_repeated_upgrade_keeps_the_copy_of_the_same_content(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(
            schema, "MIGRATIONS", (schema.MIGRATIONS[0], "ALTER TABLE vm ADD COLUMN x;\nCREATE TABLE vm (x)")
        )
        with pytest.raises(LedgerError):
            Ledger.open(path)
    made = copy_of(path).stat()
    Ledger.open(path).close()
    assert (copy_of(path).stat().st_ino, version(copy_of(path))) == (made.st_ino, 1)
    assert version(path) == schema.VERSION


@pytest.mark.parametrize("rubbish", [b"", b"half a copy" * 1000])
def test_an_older_copy_or_another_file_is_replaced_by_a_new_copy(path: Path, rubbish: bytes) -> None:
    copy_of(path).write_bytes(rubbish)
    copy_of(path).with_name("ledger.db.schema1.new").write_bytes(rubbish)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        bindings.meet(db, "met meanwhile", AT, bindings.next_rev(db))
    now = rows(path)
    Ledger.open(path).close()
    assert files(path) == {"ledger.db", "ledger.db.schema1"}
    assert rows(copy_of(path)) == now


def test_several_processes_can_upgrade_one_ledger_at_once(path: Path, before: Rows) -> None:
    code = "import sys, pathlib; from xenbw.ledger.ledger import Ledger; Ledger.open(pathlib.Path(sys.argv[1])).close()"
    started = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(4)]
    assert [process.wait() for process in started] == [0] * 4
    assert (version(path), version(copy_of(path))) == (schema.VERSION, 1)
    assert rows(copy_of(path)) == before


# no way to make the copy


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB with the older ledger on it, mounted where SQLite finds it by its name."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={24 * MIB}", "xenbw-test", str(folder)], check=True)
    try:
        make_schema1(folder / "ledger.db")
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """Take all space but so many bytes; the file that takes it."""
    filler = disk / "filler"
    free = os.statvfs(disk)
    with filler.open("wb") as opened:
        os.posix_fallocate(opened.fileno(), 0, free.f_bavail * free.f_frsize - leave)
    return filler


@needs_root
def test_without_room_for_the_copy_nothing_changes_and_the_admin_is_told_what_to_do(disk: Path) -> None:
    path = disk / "ledger.db"
    filler = fill(disk, leave=2 * MIB)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="no room for the copy") as caught:
        Ledger.open(path)
    assert "free some space" in str(caught.value)
    assert path.read_bytes() == before
    assert files(path) == {"ledger.db", "filler"}
    filler.unlink()
    Ledger.open(path).close()
    assert version(path) == schema.VERSION


@needs_root
def test_a_disk_that_fills_up_during_the_copy_leaves_no_part_of_it(disk: Path) -> None:
    path = disk / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for _ in range(3):
            db.execute("INSERT INTO event (at, kind, text, rev) VALUES ('', '', hex(zeroblob(524288)), 0)")
    fill(disk, leave=MIB)
    with pytest.raises(LedgerError, match="could not be copied"), pytest.MonkeyPatch.context() as late:
        # As if it had been filled after the look at the free space.
        late.setattr(backup, "_need_room", lambda *_: None)
        Ledger.open(path)
    assert version(path) == 1
    assert files(path) == {"ledger.db", "filler"}


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_in_a_read_only_folder_nothing_changes(path: Path) -> None:
    for folder in (path.parent, *path.parent.parents[:2]):
        folder.chmod(0o755)
    for entry in path.parent.iterdir():
        os.chown(entry, 65534, -1)
    os.seteuid(65534)
    try:
        with pytest.raises(LedgerError):
            Ledger.open(path)
    finally:
        os.seteuid(0)
    assert version(path) == 1
    assert not copy_of(path).exists()


def test_without_room_for_the_copy_the_daemon_does_not_treat_the_ledger_as_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_SPARE", 2**62)
    with pytest.raises(LedgerError, match="no room"):
        rescue.open_or_replace(path, None, NOW)
    assert files(path) == {"ledger.db"}


# killed on the way


def test_a_process_killed_at_any_line_of_an_upgrade_leaves_one_whole_schema(tmp_path: Path, before: Rows) -> None:
    line, seen = 0, set()
    while True:
        folder = tmp_path / str(line)
        folder.mkdir()
        path = make_schema1(folder / "ledger.db")
        killed = killed_at(line, [schema, backup, file], partial(Ledger.open, path))
        reached, copy = version(path), copy_of(path)
        assert sound(path)
        assert narrowed(rows(path), before) == before
        assert reached in (1, schema.VERSION)
        if copy.exists():
            assert (version(copy), sound(copy)) == (1, True)
            assert rows(copy) == before
        else:
            assert reached == 1
        seen.add((reached, copy.exists()))
        Ledger.open(path).close()
        assert narrowed(rows(path), before) == before
        assert files(path) == {"ledger.db", "ledger.db.schema1"}
        if not killed:
            break
        line += cases(3, 1)
    assert line > 50
    assert seen == {(1, False), (1, True), (schema.VERSION, True)}


# old and new programs side by side


@pytest.mark.parametrize("upgraded", [False, True], ids=["before", "after"])
def test_the_hook_s_statements_work_before_and_after_the_upgrade(path: Path, upgraded: bool) -> None:
    if upgraded:
        Ledger.open(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        rev = bindings.next_rev(db)
        vif: dict[str, Any] = {"boot_id": BOOT, "domid": 9, "devid": 0, "kind": "vif"}
        new = bindings.NewBinding(name="web1", ifindex=900, interface="vif9.0", ips="192.0.2.9", **vif)
        bindings.bind(db, new, at=AT, rev=rev)
        assert bindings.blocked(db)["web1"] == ["192.0.2.9"]
        assert bindings.held(db, BOOT) == set()
        assert bindings.networks(db, "protected") == ["192.0.2.1"]
        assert bindings.networks(db, "allow") == []
        bindings.unbind(db, reason="offline", at=AT, rev=rev, **vif)
        assert db.execute("SELECT end_reason FROM binding WHERE domid = 9").fetchall() == [("offline",)]
    assert version(path) == (schema.VERSION if upgraded else 1)


def test_a_program_that_has_the_older_ledger_open_goes_on_with_the_newer(path: Path) -> None:
    statements = (
        "INSERT INTO outbox (created_at, subject, body, next_at) VALUES ('2026-03-20T12:00:00+00:00', 's', 'b', 't')",
        "SELECT id, created_at, subject, body, tries FROM outbox WHERE sent_at IS NULL",
        "UPDATE outbox SET tries = tries + 1, next_at = 't' WHERE id = 1",
        "SELECT * FROM vm WHERE retired_at IS NULL ORDER BY name",
        "DELETE FROM outbox WHERE id = 3",
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as older:
        for statement in statements:
            older.execute(statement).fetchall()
        Ledger.open(path).close()
        for statement in statements:
            older.execute(statement).fetchall()
    with closing(Ledger.open(path)) as ledger:
        assert [message.channel for message in outbox.due(ledger, NOW, NOW)] == [Channel.MAIL] * 3


def test_a_hook_that_writes_during_the_upgrade_loses_nothing_and_does_not_stop_it(path: Path) -> None:
    stop = threading.Event()
    written = 0

    def call_hooks() -> None:
        nonlocal written
        with closing(sqlite3.connect(path, isolation_level=None, timeout=0.5)) as db:
            while not stop.is_set():
                db.execute("BEGIN IMMEDIATE")
                bindings.meet(db, f"new {written}", AT, bindings.next_rev(db))
                db.execute("COMMIT")
                written += 1
                stop.wait(0.002)

    hooks = threading.Thread(target=call_hooks)
    hooks.start()
    while written < 20:
        pass
    with closing(Ledger.open(path, patience=5.0)) as ledger:
        stop.set()
        hooks.join()
        names = {vm.name for vm in ledger.vms().values()}
    assert {f"new {number}" for number in range(written)} <= names
    assert sound(copy_of(path))


# before the new daemon starts


def upgrade(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xenbw.ledger.upgrade"],
        env={**os.environ, "XENBW_CONFIG": str(config)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_can_upgrade_the_ledger_that_the_configuration_names(path: Path, tmp_path: Path) -> None:
    config = tmp_path / "xenbw.toml"
    config.write_text(f'[ledger]\npath = "{path}"\n')
    for _ in range(2):
        assert (upgrade(config).returncode, upgrade(config).stderr) == (0, "")
        assert version(path) == schema.VERSION


def test_without_a_ledger_the_package_s_upgrade_makes_none(tmp_path: Path) -> None:
    config = tmp_path / "xenbw.toml"
    config.write_text(f'[ledger]\npath = "{tmp_path}/ledger.db"\n')
    assert upgrade(config).returncode == 0
    assert not (tmp_path / "ledger.db").exists()


def test_an_upgrade_that_fails_says_why_in_one_line(path: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    config = tmp_path / "xenbw.toml"
    config.write_text(f'[ledger]\npath = "{path}"\n')
    done = upgrade(config)
    assert done.returncode == 1
    assert done.stderr.startswith(f"xenbw: {path}: written by a newer xenbw")
    assert done.stderr.count("\n") == 1


class _FullAtCommit:
    """As SQLite does at a full disk, it has rolled back when COMMIT fails."""

    in_transaction = False

    def execute(self, statement: str) -> SimpleNamespace:
        if statement == "COMMIT":
            raise sqlite3.OperationalError("database or disk is full")
        if statement == "ROLLBACK":
            raise sqlite3.OperationalError("cannot rollback - no transaction is active")
        return SimpleNamespace(fetchone=lambda: (schema.VERSION,))


def test_a_disk_that_is_full_at_the_commit_is_called_full() -> None:
    with pytest.raises(sqlite3.OperationalError, match="disk is full"):
        schema.migrate(cast("sqlite3.Connection", _FullAtCommit()))

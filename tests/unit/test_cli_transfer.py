"""A ledger is exported to a file and imported from it, to the byte and the microsecond, or not at all."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.books import add_vm, start_vif
from tests.support.clock import utc
from tests.support.console import Console, StandIn
from xenbw.accounting import Pending, Share
from xenbw.config import LedgerSection
from xenbw.ledger import ageing, blocklog, history, outbox, schema, unmetered, usagelog, vmlog
from xenbw.ledger.ledger import Alive
from xenbw.ledger.unmetered import Unmetered
from xenbw.model import Action, Amounts, Cause, Cell, Counters, Mark, Span
from xenbw.transfer.transfer import records

NOW = utc("2026-03-20 12:00") + timedelta(microseconds=7)
HUGE = 2**62 + 1
RATES = {"action": "throttle", "rate": 10**7, "rate_in": 2 * 10**7, "hard_limit_bytes": HUGE + 1}
NAME = 'web1\x1b[31m"\\ \u2028é'


@pytest.fixture
def console(tmp_path: Path) -> Console:
    """A host with something in every table."""
    folder = tmp_path / "old"
    folder.mkdir()
    console = Console(folder)
    with console.ledger() as ledger:
        vm_id = add_vm(ledger, NAME, NOW, limit_bytes=HUGE, reset_day=15, **RATES)
        binding = start_vif(ledger, NAME, NOW, domid=1, ips="192.0.2.9 2001:db8::9")
        share = Share(utc("2026-03-15"), utc("2026-03-20 12:00"), HUGE, 3, 1)
        raw = Counters(HUGE, 3)
        counted = Amounts(*raw, 5, 6, 7)
        mark = Mark(raw, counted, Counters(1, -2))
        cells = tuple((vm_id, Cell(Span.FIVE_MINUTES, at, counted)) for at in (NOW, NOW - timedelta(days=2)))
        portion = (binding.id, share.period_start, Counters(*raw))
        pending = Pending(((binding.id, counted, mark, NOW),), ((vm_id, share),), (portion,), cells)
        unmetered.keep(ledger, binding.boot_id, {vm_id: Unmetered(False, "its vif 1 is in driver domain 5")})
        usagelog.commit(ledger, pending, Alive(NOW, 1000.25, binding.boot_id))
        ageing.age(ledger, vm_id, NOW, LedgerSection().keep_spans, UTC)
        for minute in range(5000):
            usagelog.add_readings(ledger, [(binding.id, raw, raw)], NOW + timedelta(minutes=minute))
        blocklog.block(ledger, vm_id, Cause.ADMIN, "abuse", NOW, None)
        ledger.record(NOW, "note", "seen")
        outbox.queue(ledger, NOW, "subject", "two\nlines")
        vmlog.retire(ledger, add_vm(ledger, "gone", NOW), NOW)
    return console


@pytest.fixture
def fresh(tmp_path: Path) -> Console:
    """Another host, without a ledger yet."""
    folder = tmp_path / "new"
    folder.mkdir()
    return Console(folder)


@pytest.fixture
def exported(console: Console, tmp_path: Path) -> Path:
    path = tmp_path / "ledger.jsonl"
    assert console.run("export", str(path)).returncode == 0
    return path


def contents(console: Console) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, but for the ledger's own name and its count of transactions."""
    db = sqlite3.connect(console.ledger_path)
    tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    found = {table: sorted(db.execute(f"SELECT * FROM {table}"), key=repr) for table in tables}  # noqa: S608 (its own names)
    found["meta"] = [row for row in found["meta"] if row[0] not in ("id", "rev")]
    db.close()
    return found


def rewrite(path: Path, change: Callable[[list[str]], None]) -> None:
    lines = path.read_text().splitlines()
    change(lines)
    path.write_text("\n".join(lines) + "\n")


def edit(path: Path, table: str, values: dict[str, Any]) -> int:
    """Change columns of the table's first record; returns its line's number."""
    lines = path.read_text().splitlines()
    number = next(at for at, line in enumerate(lines) if json.loads(line).get("table") == table)
    lines[number] = json.dumps(json.loads(lines[number]) | values)
    path.write_text("\n".join(lines) + "\n")
    return number + 1


def refused(result: subprocess.CompletedProcess[str]) -> str:
    assert (result.returncode, result.stdout) == (1, ""), result
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_a_ledger_comes_back_as_it_was(console: Console, fresh: Console, exported: Path) -> None:
    said = fresh.done("import", str(exported))
    assert contents(fresh) == contents(console)
    assert "2 vm, 1 binding" in said
    assert "5,000 reading" in said
    assert "of dom0-a" in said


def as_exported_by(path: Path, version: int) -> None:
    """Change the file to what an xenbw with that schema wrote."""
    with closing(sqlite3.connect(":memory:")) as db:
        for script in schema.MIGRATIONS[:version]:
            db.executescript(script)
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        known = {
            table: {row[0] for row in db.execute("SELECT name FROM pragma_table_info(?)", (table,))} for table in tables
        }
    head, *lines, _ = map(json.loads, path.read_text().splitlines())
    rows = [
        {name: value for name, value in line.items() if name in {"table", *known[line["table"]]}}
        for line in lines
        if line["table"] in known
    ]
    written = [{**head, "schema": version}, *rows, {"end": len(rows)}]
    path.write_text("".join(json.dumps(line) + "\n" for line in written))


@pytest.mark.parametrize("version", range(1, schema.VERSION))
def test_the_export_of_an_older_ledger_comes_back_without_what_it_did_not_have(
    fresh: Console, exported: Path, version: int
) -> None:
    as_exported_by(exported, version)
    assert "2 vm, 1 binding" in fresh.done("import", str(exported))
    vm = fresh.vm(NAME)
    assert (vm.limit_bytes, vm.reset_day, vm.action) == (HUGE, 15, Action.THROTTLE)
    throttled = (vm.rate, vm.rate_in, vm.hard_limit_bytes)
    assert throttled == (None, None, None) if version < 4 else None not in throttled
    with fresh.ledger() as ledger:
        assert usagelog.of_period(ledger, vm.id, utc("2026-03-15")) == Counters(HUGE, 3)
        hours = history.values(ledger, vm.id, Span.HOUR, utc("2026-03-20"), utc("2026-03-21"), UTC)
        # Before there was a history, it is made of the usage.
        kept = Amounts(HUGE, 3) if version < 5 else Amounts(HUGE, 3, 5, 6, 7)
        assert hours == [(utc("2026-03-20 12:00"), kept)]
        (binding,) = ledger.live_bindings().values()
        assert binding.counted == (Amounts(HUGE, 3) if version == 1 else Amounts(HUGE, 3, 5, 6, 7))


def test_the_export_of_an_older_ledger_with_a_later_column_is_refused(fresh: Console, exported: Path) -> None:
    rewrite(exported, lambda lines: lines.__setitem__(0, json.dumps(json.loads(lines[0]) | {"schema": 3})))
    assert "vm has the columns id, name" in refused(fresh.run("import", str(exported)))


def test_an_imported_ledger_has_another_id_and_no_smaller_rev(console: Console, fresh: Console, exported: Path) -> None:
    fresh.run("import", str(exported))
    with console.ledger() as old, fresh.ledger() as new:
        assert new.meta("id") != old.meta("id")
        assert new.meta("rev") >= old.meta("rev")


def test_without_a_file_it_goes_to_standard_output_as_ascii_lines(console: Console) -> None:
    lines = console.run("export").stdout.splitlines()
    head = json.loads(lines[0])
    assert (head["xenbw"], head["format"], head["host"], head["schema"]) == ("ledger", 1, "dom0-a", schema.VERSION)
    assert json.loads(lines[-1]) == {"end": len(lines) - 2}
    assert all(line.isascii() and line.isprintable() for line in lines)
    (vm,) = (record for record in map(json.loads, lines) if record.get("name") == NAME)
    assert (vm["limit_bytes"], vm["found_at"]) == (HUGE, "2026-03-20T12:00:00.000007+00:00")
    assert {name: vm[name] for name in RATES} == RATES


def test_a_reader_that_has_enough_ends_the_export_quietly(console: Console) -> None:
    shell = '{ "$@"; echo $? >&2; } | head -n 1'
    result = console.run("export", wrap=("sh", "-c", shell, "sh"))
    assert json.loads(result.stdout)["xenbw"] == "ledger"
    *notes, status = result.stderr.splitlines()
    assert [note for note in notes if not note.startswith("note: xenbwd")] == []
    assert status == "141"


def test_the_file_is_not_world_readable_and_replaces_an_older_one_only_when_whole(
    console: Console, exported: Path
) -> None:
    assert exported.stat().st_mode & 0o007 == 0
    exported.write_text("older")
    console.ledger_path.write_bytes(b"no ledger" * 1000)
    refused_text = console.run("export", str(exported))
    assert refused_text.returncode == 1
    assert exported.read_text() == "older"
    assert [path.name for path in exported.parent.glob("ledger.jsonl*")] == ["ledger.jsonl"]


def test_a_path_that_is_not_a_file_is_not_replaced(console: Console) -> None:
    result = console.run("export", "/dev/null")
    assert "/dev/null: not a file" in result.stderr
    assert Path("/dev/null").is_char_device()


def test_a_symbolic_link_of_another_user_is_not_followed(console: Console, tmp_path: Path) -> None:
    victim, planted = tmp_path / "passwd", tmp_path / "backup"
    victim.write_text("root:x:0:0\n")
    planted.symlink_to(victim)
    os.lchown(planted, 65534, 65534)
    done = console.run("export", str(planted))
    assert done.returncode == 1
    assert f"{planted}: a symbolic link of another user's (name the file itself)\n" in done.stderr
    assert victim.read_text() == "root:x:0:0\n"


def test_the_admin_s_own_symbolic_link_is_followed_and_stays(console: Console, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "backup"
    link.symlink_to("disk/today")
    console.run("export", str(link))
    assert link.is_symlink()
    assert (tmp_path / "disk" / "today").read_text().startswith('{"xenbw"')


def test_other_files_in_the_folder_are_not_changed(console: Console, tmp_path: Path) -> None:
    file, beside = tmp_path / "backup", tmp_path / "backup.new"
    beside.write_text("somebody's")
    console.run("export", str(file))
    assert beside.read_text() == "somebody's"
    assert oct(file.stat().st_mode & 0o777) == oct(0o640)
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_export_is_of_one_moment(console: Console) -> None:
    with console.ledger() as source:
        exported = records(source)
        first = next(exported)
        with console.ledger() as ledger:
            add_vm(ledger, "late", NOW)
        assert "late" not in first + "".join(exported)


def test_a_ledger_with_records_is_not_filled(console: Console, exported: Path) -> None:
    before = contents(console)
    assert "only an empty ledger is filled (move" in refused(console.run("import", str(exported)))
    assert contents(console) == before


def test_while_the_daemon_runs_nothing_is_imported(fresh: Console, exported: Path) -> None:
    with StandIn(fresh):
        assert "xenbwd is running: nothing was imported (systemctl stop" in refused(fresh.run("import", str(exported)))
    assert not fresh.ledger_path.exists()


@pytest.mark.parametrize(
    ("table", "values", "why"),
    [
        ("vm", {"limit_bytes": "500"}, "limit_bytes: '500' is not a whole number"),
        ("vm", {"limit_bytes": 2**63}, "out of range"),
        ("vm", {"limit_bytes": True}, "not a whole number"),
        ("vm", {"found_at": "2026-03-20T12:00:00Z"}, "not a time as the ledger writes it"),
        ("vm", {"found_at": "yesterday"}, "Invalid isoformat"),
        ("vm", {"rate": 7_999}, "vm: rate: 7999 is impossible"),
        ("vm", {"rate_in": "10Mbit"}, "rate_in: '10Mbit' is not a whole number"),
        ("vm", {"hard_limit_bytes": 2**63}, "out of range"),
        ("vm", {"state": "asleep"}, "'asleep' is not a valid State"),
        ("vm", {"name": None}, "NOT NULL"),
        ("history_run", {"amounts": "AAAA"}, "while decompressing data"),
        ("history_run", {"span": 7}, "history_run: span: 7 is impossible"),
        ("vm", {"colour": "red"}, "vm has the columns id, name"),
        ("vm", {"table": "sqlite_schema"}, "no table 'sqlite_schema' is known"),
        ("vm", {"table": ["vm"]}, "no table ['vm'] is known"),
        ("binding", {"ips": "nowhere"}, "does not appear to be an IPv4 or IPv6 address"),
        ("binding", {"vm_id": 99}, "FOREIGN KEY"),
        ("meta", {"key": "rev", "value": "much"}, "rev is a whole number"),
    ],
)
def test_a_record_that_makes_no_sense_is_named_by_its_line_and_nothing_is_written(
    fresh: Console, exported: Path, table: str, values: dict[str, Any], why: str
) -> None:
    number = edit(exported, table, values)
    said = refused(fresh.run("import", str(exported)))
    assert f"{exported}:{number}: " in said
    assert why in said
    assert all(rows == [] for rows in contents(fresh).values())


@pytest.mark.parametrize(
    "line", ["", "{", "[]", '"vm"', "[" * 100_000, '{"id": 1}', '{"table": "vm"}', "\x00", '{"table": NaN}']
)
def test_a_line_that_is_no_record_is_named_by_its_number(fresh: Console, exported: Path, line: str) -> None:
    rewrite(exported, lambda lines: lines.__setitem__(2, line))
    assert f"{exported}:3: " in refused(fresh.run("import", str(exported)))
    assert all(rows == [] for rows in contents(fresh).values())


def test_a_record_longer_than_any_ledger_has_is_named_and_nothing_is_written(fresh: Console, exported: Path) -> None:
    lines = exported.read_text().splitlines()
    lines[1] = lines[1].replace("{", '{"more": "' + "x" * 2**20 + '", ', 1)
    exported.write_text("\n".join(lines) + "\n")
    said = refused(fresh.run("import", str(exported)))
    assert f"{exported}:2: a record of 1,0" in said
    assert "and none has more than 1,048,576" in said


def test_a_file_cut_short_is_refused(fresh: Console, exported: Path) -> None:
    rewrite(exported, lambda lines: lines.__delitem__(slice(-1, None)))
    assert "the file ends early" in refused(fresh.run("import", str(exported)))
    rewrite(exported, lambda lines: lines.__delitem__(slice(1, None)))
    assert ":1: the file ends early" in refused(fresh.run("import", str(exported)))
    assert all(rows == [] for rows in contents(fresh).values())


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ("hello", "not a file that xenbw export wrote"),
        ('{"xenbw": "book", "format": 1}', "this xenbw imports ledgers only"),
        ('{"xenbw": "ledger", "format": 9}', "upgrade xenbw"),
        ('{"xenbw": "ledger", "format": 1, "schema": 99}', "a copy of a ledger with schema 99"),
    ],
)
def test_another_file_is_recognised_by_its_first_line(fresh: Console, exported: Path, first: str, why: str) -> None:
    rewrite(exported, lambda lines: lines.__setitem__(0, first))
    assert why in refused(fresh.run("import", str(exported)))


def test_binary_files_and_missing_files_are_errors_that_name_them(fresh: Console, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\n")
    assert "binary:1: " in refused(fresh.run("import", str(tmp_path / "binary")))
    assert "No such file" in refused(fresh.run("import", str(tmp_path / "none")))


@pytest.mark.parametrize("words", [["fleet"], ["resync"]])
def test_a_command_that_needs_a_book_says_that_there_is_none(fresh: Console, words: list[str]) -> None:
    result = fresh.run(*words)
    assert (result.returncode, result.stderr) == (
        2,
        "xenbw: there is no book (set [mongodb] uri in the configuration first)\n",
    )


def test_the_help_of_export_and_import_promises_the_ledger_alone(fresh: Console) -> None:
    said = " ".join(fresh.done("--help").split())
    assert " export write the ledger as JSON lines import fill an empty ledger from an exported file import-" in said

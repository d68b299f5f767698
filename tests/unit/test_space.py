"""The ledger's file gives the room of deleted rows back to the disk, while it is in use."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from xenbw.ledger import schema, space, upgrade
from xenbw.ledger.ledger import Ledger


def grow_and_shrink(ledger: Ledger) -> tuple[int, int]:
    """Fill the ledger with 12 MB and delete them: its size then, and once the free pages are given back."""
    with ledger.transaction() as db:
        db.executemany("INSERT INTO event VALUES (?, 'x', NULL, 'x', ?, 0)", ((n, "x" * 3000) for n in range(1, 4001)))
    with ledger.transaction() as db:
        db.execute("DELETE FROM event")
    ledger.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    before = ledger.path.stat().st_size
    for _ in range(20):
        space.give_back(ledger)
    ledger.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    return before, ledger.path.stat().st_size


def test_free_pages_are_given_back_but_for_a_few(ledger: Ledger) -> None:
    before, after = grow_and_shrink(ledger)
    assert before > 12 * 10**6
    assert 4 * 10**6 < after < 6 * 10**6


def test_the_package_s_upgrade_lets_an_older_ledger_shrink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, config = tmp_path / "ledger.db", tmp_path / "xenbw.toml"
    config.write_text(f'[ledger]\npath = "{path}"\n')
    monkeypatch.setenv("XENBW_CONFIG", str(config))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(schema.MIGRATIONS[0])
        db.execute("PRAGMA user_version = 1")
    assert upgrade.main() == 0
    with closing(Ledger.open(path)) as ledger:
        before, after = grow_and_shrink(ledger)
    assert after < before / 2


def test_without_room_for_two_copies_the_older_ledger_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(schema.MIGRATIONS[0])
        db.execute("PRAGMA user_version = 1")
    with closing(Ledger.open(path)) as ledger:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=10**6))
        assert not space.let_shrink(ledger)
        space.give_back(ledger)
        assert ledger.rows("PRAGMA auto_vacuum")[0][0] == 0

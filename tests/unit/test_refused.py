"""What the system refuses is one line with what to do about it, and with the path that the admin typed."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from tests.support.console import Console
from tests.support.smalldisk import SmallDisk
from xenbw.cli import links
from xenbw.cli.refusal import refused
from xenbw.errors import XenbwError
from xenbw.ledger.trouble import explain

USER, ROOT = 1000, 0


@pytest.mark.parametrize(
    ("number", "user", "hint"),
    [
        (errno.EACCES, USER, "are you root?"),
        (errno.EPERM, USER, "are you root?"),
        (errno.EACCES, ROOT, "not even root may; mount and lsattr may say why"),
        (errno.ENOSPC, ROOT, "free some space"),
        (errno.EDQUOT, ROOT, "free some space"),
        (errno.ENOENT, ROOT, "create the folder above it first"),
        (errno.EROFS, ROOT, "the file system is mounted read-only; choose another, or mount it to write on it"),
        (errno.EIO, ROOT, None),
    ],
)
def test_the_hint_follows_from_the_error(
    monkeypatch: pytest.MonkeyPatch, number: int, user: int, hint: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    error = refused("/srv/x", OSError(number, os.strerror(number), "/srv/.x.tmp"))
    assert (error.message, error.hint) == (f"/srv/x: {os.strerror(number)}", hint)


def test_an_error_about_no_file_asks_for_no_folder() -> None:
    assert refused("system error", FileNotFoundError(errno.ENOENT, "No such file or directory")).hint is None


@pytest.mark.usefixtures("daemon")
def test_export_names_the_path_that_was_typed(console: Console) -> None:
    console.done("addvm", "web1", "--limit", "1", "--ip", "192.0.2.9")
    target = f"{console.root}/missing/ledger.json"
    assert console.run("export", target).stderr == (
        f"xenbw: {target}: No such file or directory (create the folder above it first)\n"
    )
    with SmallDisk(100_000) as disk:
        disk.fill()
        target = f"{disk.path}/ledger.json"
        assert console.run("export", target).stderr == f"xenbw: {target}: No space left on device (free some space)\n"


@pytest.mark.usefixtures("daemon")
def test_output_into_a_full_disk_does_not_ask_for_root(console: Console) -> None:
    console.done("addvm", "web1", "--limit", "1", "--ip", "192.0.2.9")
    result = console.run("list", wrap=("sh", "-c", 'exec "$@" >/dev/full', "sh"))
    assert result.stderr.splitlines()[0] == "xenbw: system error: No space left on device (free some space)"


def test_a_key_in_a_folder_that_is_missing_asks_for_the_folder(tmp_path: Path) -> None:
    with pytest.raises(XenbwError, match=r"missing/report.key: No such file or directory \(create the folder above"):
        links.key_of(tmp_path / "missing/report.key")


def test_a_ledger_that_cannot_be_opened_may_be_on_a_read_only_file_system(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError) as failure:
        sqlite3.connect(tmp_path / "missing/ledger.db")
    hint = explain(tmp_path / "ledger.db", failure.value).hint
    assert hint == "is xenbwd running? is the file system mounted read-only? are you root?"

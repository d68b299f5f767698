"""The hooks' notes: a full /run leaves no half of one, and a hook that is killed holds nothing up."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.smalldisk import SmallDisk
from xenbw.blocks.drop import Drop
from xenbw.blocks.link import Link
from xenbw.hook import call
from xenbw.rundir import pending
from xenbw.rundir.note import Note
from xenbw.rundir.pending import Start

WORDS = {"starts": "1", "name": "web1", "domid": "1", "devid": "0", "kind": "vif", "ifindex": "7"}
WORDS |= {"interface": "vif1.0", "ips": "192.0.2.7"}
AT = "2026-03-20T12:00:00.000000+00:00"
STARTED = [Start("web1", 1, 7, "vif1.0", frozenset({ip_address("192.0.2.7")}))]


@pytest.fixture
def note(tmp_path: Path) -> Note:
    return Note(str(tmp_path), AT)


def test_a_note_tells_of_the_vif_from_its_beginning_until_it_is_withdrawn(note: Note, tmp_path: Path) -> None:
    spool = pending.folder(tmp_path)
    note.begin(WORDS)
    assert (pending.started(spool), pending.files(spool)) == (STARTED, [])
    note.leave(WORDS)
    assert (pending.started(spool), pending.files(spool)) == (STARTED, [spool / f"{AT}.{os.getpid()}"])
    note = Note(str(tmp_path), "later")
    note.begin(WORDS)
    note.withdraw()
    assert list(spool.iterdir()) == pending.files(spool)


def test_only_root_can_read_a_note(note: Note, tmp_path: Path) -> None:
    for write in (note.begin, note.leave):
        write(WORDS)
        (path,) = pending.folder(tmp_path).iterdir()
        assert oct(path.stat().st_mode & 0o777) == "0o600"


def test_a_note_that_is_replaced_while_it_is_read_still_tells_of_the_vif(
    note: Note, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = pending.folder(tmp_path)
    note.begin(WORDS)
    seen = pending.notes(spool)
    note.leave(WORDS)
    monkeypatch.setattr(pending, "notes", lambda _spool: seen)
    assert pending.started(spool) == STARTED


@pytest.mark.parametrize(("room", "addresses"), [(0, 1), (4096, 1000)])
def test_on_a_full_disk_no_note_is_left_and_none_has_to_be_withdrawn(room: int, addresses: int) -> None:
    with SmallDisk(1 << 20) as disk:
        note, spool = Note(str(disk.path), AT), pending.folder(disk.path)
        spool.mkdir()
        disk.fill(leave=room)
        for write in (note.begin, note.leave):
            with pytest.raises(OSError, match="No space left on device"):
                write({**WORDS, "ips": " ".join(["192.0.2.7"] * addresses)})
            assert list(spool.iterdir()) == []
        note.withdraw()


def test_the_note_of_the_beginning_stays_if_the_disk_is_full_at_the_end() -> None:
    with SmallDisk(1 << 20) as disk:
        note, spool = Note(str(disk.path), AT), pending.folder(disk.path)
        note.begin(WORDS)
        disk.fill()
        with pytest.raises(OSError, match="No space left on device"):
            note.leave(WORDS)
        assert [path.suffix for path in spool.iterdir()] == [".begun"]


def test_a_note_that_another_program_removed_can_be_withdrawn(note: Note, tmp_path: Path) -> None:
    note.begin(WORDS)
    (path,) = pending.folder(tmp_path).iterdir()
    path.unlink()
    note.withdraw()


def test_a_hook_that_can_leave_no_note_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr(call, "_log", logged.append)
    facts: Any = SimpleNamespace(interface="vif1.0", unannounced=False, words=lambda: WORDS)
    paths: Any = SimpleNamespace(ledger="/nonexistent")
    with SmallDisk(1 << 20) as disk:
        disk.fill()
        call._record(facts, paths, Note(str(disk.path), AT))
    (line,) = logged
    assert line.startswith("vif1.0: the note for xenbwd cannot be written or removed: ")
    assert "No space left on device" in line


def test_a_hook_whose_drop_and_link_fail_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    logged: list[str] = []
    monkeypatch.setattr(call, "_log", logged.append)
    monkeypatch.setattr(Drop, "put", full)
    monkeypatch.setattr(Link, "lower", full)
    call._shut(7, str(tmp_path))
    (line,) = logged
    assert line.startswith("interface 7: its link cannot be taken down, so only rules hold it: ")


def unfinished(spool: Path, seconds: float) -> Path:
    """The file of a hook that began its note so long ago."""
    spool.mkdir(exist_ok=True)
    path = spool / f"{AT}.{seconds:.0f}.new"
    path.touch()
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_files_of_hooks_that_were_killed_early_are_removed_and_are_no_notes(tmp_path: Path) -> None:
    spool = pending.folder(tmp_path)
    pending.tidy(spool)
    stale, fresh, held = (unfinished(spool, seconds) for seconds in (100, 1, 200))
    (spool / "folder.new").mkdir()
    os.utime(spool / "folder.new", (0, 0))
    assert pending.notes(spool) == []
    file = os.open(held, os.O_RDONLY)
    fcntl.flock(file, fcntl.LOCK_EX)
    pending.tidy(spool)
    assert {path for path in spool.iterdir() if path.is_file()} == {fresh, held}
    os.close(file)
    pending.tidy(spool)
    assert {path for path in spool.iterdir() if path.is_file()} == {fresh}

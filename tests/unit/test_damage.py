"""A daemon starts with any damage to its ledger, keeps the rows that are good, reports the rest, and releases no VM.

The file is long: all its tests damage the same ledger, which one fixture fills.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.books import BOOT, add_vm, open_ledger, start_vif
from tests.support.clock import HandClock, utc
from tests.support.damage import GARBAGE, columns, garble, spoil
from tests.support.effort import cases
from tests.support.guarded import MethodStandIn
from tests.support.pace import busy
from xenbw.accounting import Pending, Share
from xenbw.config import DaemonSection, LedgerSection, MetricsSection, Settings
from xenbw.daemon.cycle import Work
from xenbw.errors import XenbwError
from xenbw.ledger import blocklog, check, eventlog, history, kept, outbox, rescue, runs, shared, usagelog, viflog, vmlog
from xenbw.ledger.ledger import Alive, Ledger
from xenbw.model import Amounts, Cause, Counters, Span
from xenbw.rundir import overfile
from xenbw.runner import CommandError, Result
from xenbw.vifs import interfaces
from xenbw.vifs.orphans import Orphans
from xenbw.xen.xenstore import Lookup

NOW = utc("2026-03-20 12:00")
MARCH = utc("2026-03-01")
BLOCKED = {"over", "unpaid"}


def no_command(_argv: Sequence[str], **_options: object) -> Result:
    raise CommandError("not on this host")


class Dom0:
    """A host without interfaces of its own, whose daemon can be started again and again on the ledger that it left."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.path, self.over = folder / "lib/ledger.db", folder / "run/over"
        self.settings = Settings(
            daemon=DaemonSection(run_dir=folder / "run"),
            ledger=LedgerSection(path=self.path),
            metrics=MetricsSection(None),
        )
        self.clock = HandClock(NOW, 100_000)
        for name in ("net", "run", "lib"):
            (folder / name).mkdir(exist_ok=True)

    def start(self) -> tuple[Work, Ledger]:
        """The daemon starts, and looks twice."""
        over = overfile.read(str(self.over))
        ledger = rescue.open_or_replace(self.path, over.blocked if over else None, self.clock.wall)
        lookup = self._stack.enter_context(closing(Lookup(str(self.folder / "no-xenstored"))))
        work = Work(
            self.settings,
            ledger,
            lookup,
            self.clock,
            self.clock.vouches,
            BOOT,
            no_command,
            lambda _: False,
            self.folder / "net",
        )
        self._stack.callback(work.close)
        work.enforce()
        work.start()
        for _ in range(2):
            self.clock.go(seconds=11)
            work.cycle([])
        return work, ledger

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture
def dom0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dom0]:
    """A host with one VM over its allowance, one that the admin blocked, and two in good standing."""
    monkeypatch.setattr("xenbw.blocks.iptables.Iptables", lambda version: MethodStandIn(f"iptables{version}"))
    monkeypatch.setattr(interfaces, "bridge_filtered", lambda _version: True)
    with ExitStack() as stack:
        host = Dom0(tmp_path, stack)
        fill(host.path.parent)
        host.start()
        host.stop()
        yield host


def fill(folder: Path) -> None:
    """A ledger with rows in every table."""
    with closing(open_ledger(folder)) as ledger:
        for domid, (name, limit) in enumerate((("over", 1000), ("ok", 10**12), ("unpaid", 10**12)), 1):
            vm_id = add_vm(ledger, name, NOW, limit_bytes=limit, ips=(f"192.0.2.{domid}",), count="total")
            binding = start_vif(ledger, name, NOW, domid=domid, ips=f"192.0.2.{domid}")
            ledger.set_vm(vm_id, period_start=MARCH, period_rule="1@UTC", allow=("198.51.100.0/24",))
            amount = Counters(2000, 1)
            pending = Pending((), ((vm_id, Share(MARCH, NOW, *amount, 0)),), ((binding.id, MARCH, amount),))
            usagelog.commit(ledger, pending, Alive(NOW, 1.0, BOOT))
            shared.set_elsewhere(ledger, vm_id, MARCH, Counters(1, 1))
            usagelog.add_readings(ledger, [(binding.id, amount, amount)], NOW)
            viflog.end(ledger, start_vif(ledger, name, NOW, domid=10 + domid).id, NOW, "offline")
        ledger.meet("stranger", NOW)
        ledger.set_vm(vm_id, blocked_reason="unpaid")
        ledger.record(NOW, "added", "text", vm_id)
        outbox.queue(ledger, NOW, "subject", "body")
        with ledger.transaction() as db:
            db.execute("INSERT INTO unmetered VALUES (2, 'boot', 1, 'a card of its own')")
            db.execute(
                "INSERT INTO digest SELECT 1, id, period_start, 'offline', 1, found_at, found_at, '', 1, 1, 0, 0, 0, 1"
                " FROM vm WHERE id = 2"
            )
            today = runs.start_of(Span.FIVE_MINUTES, int(NOW.timestamp()))
            yesterday = runs.Run(Span.FIVE_MINUTES, today - Span.DAY)
            history.put(db, [(2, Span.FIVE_MINUTES, today, Amounts(1, 1))])
            db.execute("INSERT INTO history_run VALUES (2, 300, ?, ?)", (yesterday.start, yesterday.text()))


def blocked(ledger: Ledger) -> set[str]:
    vms = ledger.vms()
    return {vms[id_].name for id_ in ledger.active_blocks() if id_ in vms}


def test_a_sound_ledger_has_no_problem_and_keeps_no_vm_blocked(dom0: Dom0) -> None:
    work, ledger = dom0.start()
    assert (ledger.damage, dict(ledger.kept), blocked(ledger)) == (None, {}, BLOCKED)
    assert not any("ledger" in problem for problem in work.status().document()["problems"])
    assert [block.cause for block in ledger.active_blocks().values()] == [Cause.QUOTA, Cause.ADMIN]


# values that cannot be


@pytest.mark.parametrize("chunk", range(10))
def test_with_any_single_value_damaged_the_daemon_starts_and_releases_no_vm(dom0: Dom0, chunk: int) -> None:
    chance = random.Random(f"{chunk}")
    saved = dom0.folder / "saved"
    shutil.copytree(dom0.path.parent, saved)
    over = dom0.over.read_bytes()
    places = columns(dom0.path)
    for _ in range(cases(8, 40)):
        dom0.stop()
        shutil.rmtree(dom0.path.parent)
        shutil.copytree(saved, dom0.path.parent)
        dom0.over.write_bytes(over)
        table, column = chance.choice(places)
        value = chance.choice(GARBAGE)
        if garble(dom0.path, table, column, value, chance):
            try:
                _, ledger = dom0.start()
                assert blocked(ledger) >= BLOCKED
                assert not list(dom0.path.parent.glob("*.damaged-*"))
            except Exception as error:
                error.add_note(f"{table}.{column} = {value!r}")
                raise


@pytest.mark.parametrize("key", ["rev", "id"])
@pytest.mark.parametrize(
    "damage", ["UPDATE meta SET key = '400.1.2.3' WHERE key = ?", "DELETE FROM meta WHERE key = ?"]
)
def test_a_ledger_without_its_rev_or_its_id_gets_a_new_one_and_releases_no_vm(
    dom0: Dom0, damage: str, key: str
) -> None:
    with closing(sqlite3.connect(dom0.path)) as db, db:
        db.execute(damage, (key,))
    work, ledger = dom0.start()
    assert blocked(ledger) >= BLOCKED
    assert ledger.meta(key) is not None
    assert any("ledger" in problem for problem in work.status().document()["problems"])


@pytest.mark.parametrize(
    "place", [("usage", "in_bytes"), ("block", "cause"), ("vm", "limit_bytes"), ("block", "vm_id")]
)
def test_a_vm_blocked_in_the_ledger_stays_blocked_without_the_over_file(dom0: Dom0, place: tuple[str, str]) -> None:
    for seed in range(4):
        garble(dom0.path, *place, "garbage", random.Random(seed))
    dom0.over.unlink()
    _, ledger = dom0.start()
    assert blocked(ledger) >= BLOCKED


def test_an_impossible_row_is_set_aside_and_reported_and_the_other_rows_are_kept(dom0: Dom0) -> None:
    garble(dom0.path, "event", "at", "garbage", random.Random(1))
    work, ledger = dom0.start()
    (aside,) = dom0.path.parent.glob("ledger.db.rows-*.jsonl")
    record = json.loads(aside.read_text())
    assert (record["table"], record["wrong"], record["at"]) == ("event", ["at"], "garbage")
    assert oct(aside.stat().st_mode & 0o777) == "0o600"
    assert any(str(aside) in problem for problem in work.status().document()["problems"])
    assert any(kind == "damaged" for _, kind, _ in eventlog.newest(ledger, 10))
    assert dict(ledger.kept) == {}
    assert [block.cause for block in ledger.active_blocks().values()] == [Cause.QUOTA, Cause.ADMIN]


def test_a_vm_with_one_impossible_value_keeps_its_usage_and_the_rest_of_its_row(dom0: Dom0) -> None:
    with closing(Ledger.open(dom0.path)) as ledger:
        before = ledger.vm_named("ok")
    with closing(Ledger.open(dom0.path)) as ledger, ledger.transaction() as db:
        db.execute("UPDATE vm SET reset_day = 'garbage' WHERE name = 'ok'")
    _, ledger = dom0.start()
    after = ledger.vm_named("ok")
    assert before is not None
    assert after is not None
    assert (after.id, after.limit_bytes, after.reset_day) == (before.id, before.limit_bytes, None)
    assert usagelog.of_period(ledger, after.id, MARCH) == Counters(2000, 1)


@pytest.mark.parametrize(
    ("column", "value"),
    [("rate", 7_999), ("rate", 10**11 + 1), ("rate", "10Mbit"), ("rate_in", -1), ("hard_limit_bytes", "garbage")],
)
def test_an_impossible_rate_or_hard_limit_is_replaced_by_the_default(dom0: Dom0, column: str, value: object) -> None:
    good = {"rate": 8_000, "rate_in": 10**11, "hard_limit_bytes": 2**62}
    with closing(Ledger.open(dom0.path)) as ledger, ledger.transaction() as db:
        db.execute("UPDATE vm SET rate = :rate, rate_in = :rate_in, hard_limit_bytes = :hard_limit_bytes", good)
        db.execute(f"UPDATE vm SET {column} = ? WHERE name = 'ok'", (value,))  # noqa: S608 (a name from above)
    _, ledger = dom0.start()
    for name, expected in (("ok", {**good, column: None}), ("over", good)):
        vm = ledger.vm_named(name)
        assert {key: getattr(vm, key) for key in good} == expected


# notes that no hook wrote


def note(**changed: str) -> str:
    call = {"starts": "1", "name": "stranger", "boot_id": BOOT, "domid": "9", "devid": "0", "kind": "vif"}
    call |= {"ifindex": "99", "interface": "vif9.0", "mac": "", "ips": "192.0.2.9", "bridge": ""}
    call |= {"at": "2026-03-20T12:00:00.000000+00:00", "covered": "0", **changed}
    return "".join(f"{key}\t{value}\n" for key, value in call.items())


ODD: dict[str, Callable[[Path], object]] = {
    "an unknown kind": lambda path: path.write_text(note(kind="tap")),
    "no address": lambda path: path.write_text(note(ips="400.1.2.3")),
    "a number too large": lambda path: path.write_text(note(domid=str(2**70))),
    "a negative number": lambda path: path.write_text(note(ifindex="-1")),
    "no time": lambda path: path.write_text(note(at="2026-03-20")),
    "half of it": lambda path: path.write_text("starts\t1\n"),
    "no text": lambda path: path.write_bytes(b"\xff\x00"),
    "a name that is no text": lambda path: path.write_text(note(name="\\ud800")),
    "a folder": lambda path: path.mkdir(),
    "a FIFO": lambda path: os.mkfifo(path),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_file_that_no_hook_wrote_is_moved_away_and_does_not_stop_the_daemon(dom0: Dom0, kind: str) -> None:
    pending = dom0.folder / "run/pending"
    pending.mkdir()
    ODD[kind](pending / "1")
    (pending / "2").write_text(note())
    work, ledger = dom0.start()
    assert list(pending.iterdir()) == []
    assert [binding.domid for binding in viflog.latest(ledger) if binding.domid == 9] == [9]
    ODD[kind](pending / "1")
    work.cycle([])
    assert list(pending.iterdir()) == []
    assert len(list((dom0.folder / "run/pending.odd").iterdir())) == 2
    assert check.check(ledger, 10) is None
    assert all(binding.vm_id for binding in viflog.latest(ledger))


@pytest.mark.parametrize("age", [0, 1000])
def test_the_file_of_a_hook_that_was_killed_before_its_note_was_whole_holds_up_no_search_for_uncounted_vifs(
    dom0: Dom0, monkeypatch: pytest.MonkeyPatch, age: int
) -> None:
    searches: list[object] = []
    monkeypatch.setattr(Orphans, "lost", lambda _orphans, _found, at: searches.append(at))
    unfinished = dom0.folder / "run/pending/1.new"
    unfinished.parent.mkdir()
    unfinished.write_text("starts")
    os.utime(unfinished, (time.time() - age,) * 2)
    dom0.start()
    assert searches
    assert unfinished.exists() == (age == 0)


# who may read what, and hold up whom


def test_only_root_can_read_the_over_file_whichever_program_wrote_it(dom0: Dom0) -> None:
    before = os.umask(0o022)
    try:
        overfile.write(str(dom0.over), str(dom0.path), [], [], {"unpaid": []})
    finally:
        os.umask(before)
    assert oct(dom0.over.stat().st_mode & 0o777) == "0o600"


def test_a_damaged_line_of_the_over_file_releases_no_vm_of_the_other_lines(dom0: Dom0) -> None:
    overfile.write(str(dom0.over), str(dom0.path), [], [], {"one": [], "two": []})
    with dom0.over.open("ab") as file:
        file.write(b"vm\tth\xffree\nvm\t\\x\n\n")
    over = overfile.read(str(dom0.over))
    assert over is not None
    assert over.blocked.keys() == {"one", "two"}


def test_a_lock_on_the_ledger_s_folder_does_not_stop_the_making_of_a_ledger(dom0: Dom0) -> None:
    folder = os.open(dom0.path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with ThreadPoolExecutor() as thread:
            begun = thread.submit(lambda: Ledger.open(dom0.path.with_name("new.db"), create=True).close())
            try:
                assert begun.exception(timeout=busy(5)) is None
            finally:
                fcntl.flock(folder, fcntl.LOCK_UN)
    finally:
        os.close(folder)
    assert list(dom0.path.parent.glob("*.begin")) == []


# pages that cannot be read


@pytest.mark.parametrize("table", ["vm", "block", "usage", "binding", "elsewhere", "event"])
@pytest.mark.parametrize("listed", [True, False])
def test_with_any_table_unreadable_no_vm_is_released_and_no_usage_moves(dom0: Dom0, table: str, listed: bool) -> None:
    with closing(Ledger.open(dom0.path)) as ledger:
        before = {vm.name: usagelog.of_period(ledger, id_, MARCH) for id_, vm in ledger.vms().items()}
    spoil(dom0.path, table)
    if not listed:
        dom0.over.unlink()
    _, ledger = dom0.start()
    assert blocked(ledger) >= BLOCKED
    assert "ok" not in blocked(ledger)
    for vm_id, vm in ledger.vms().items():
        assert usagelog.of_period(ledger, vm_id, MARCH) in (before[vm.name], Counters(0, 0))
    if table not in ("vm", "usage"):
        assert {vm.name: usagelog.of_period(ledger, id_, MARCH) for id_, vm in ledger.vms().items()} == before


def test_usage_and_blocks_of_unreadable_vms_go_to_no_other_vm(dom0: Dom0) -> None:
    """Neither their table nor its index: the ids that they had go to whoever is met first."""
    spoil(dom0.path, "vm")
    spoil(dom0.path, "vm_name")
    overfile.write(str(dom0.over), str(dom0.path), [], [], {"mallory": []})
    _, ledger = dom0.start()
    mallory = ledger.vm_named("mallory")
    assert mallory is not None
    assert blocked(ledger) == {"mallory"}
    assert ledger.rows("SELECT * FROM usage") == []
    assert [block.reason for block in blocklog.of_vm(ledger, mallory.id)] == [kept.REASON]


def test_vms_over_by_the_rows_left_are_blocked_until_their_period_ends_and_others_until_an_admin_decides(
    dom0: Dom0,
) -> None:
    for file in dom0.path.parent.glob("ledger.db*"):
        file.unlink()
    fill(dom0.path.parent)
    with closing(Ledger.open(dom0.path)) as ledger:
        unpaid = ledger.vm_named("unpaid")
        assert unpaid is not None
        ledger.set_vm(unpaid.id, blocked_reason=None)
    _, ledger = dom0.start()
    causes = {ledger.vms()[id_].name: block.cause for id_, block in ledger.active_blocks().items()}
    assert causes == {"over": Cause.QUOTA, "unpaid": Cause.ADMIN}


# a file that is gone


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_with_the_ledger_gone_blocked_vms_stay_blocked_and_that_is_reported(dom0: Dom0, how: str) -> None:
    for file in dom0.path.parent.glob("ledger.db*"):
        file.unlink()
    if how == "empty":
        dom0.path.touch()
    work, ledger = dom0.start()
    assert blocked(ledger) == BLOCKED
    problems = " ".join(work.status().document()["problems"])
    assert "gone or empty" in problems
    assert f"over, unpaid: {kept.REASON}" in problems
    dom0.clock.go(days=40)
    work.cycle([])
    assert blocked(ledger) == BLOCKED
    for vm_id in ledger.active_blocks():
        ledger.set_vm(vm_id, blocked_reason=None)
    work.sync()
    assert blocked(ledger) == set()
    # Nobody is called blocked any more.
    problems = " ".join(work.status().document()["problems"])
    assert not any(word in problems for word in (kept.REASON, "unpaid", "until an admin"))


def test_a_first_start_reports_no_problem(dom0: Dom0) -> None:
    for file in [*dom0.path.parent.glob("ledger.db*"), dom0.over]:
        file.unlink()
    work, ledger = dom0.start()
    assert ledger.damage is None
    assert not any("ledger" in problem for problem in work.status().document()["problems"])


def test_a_vm_that_the_ledger_shows_as_released_or_removed_is_not_blocked_by_an_older_over_file(
    dom0: Dom0,
) -> None:
    over = dom0.over.read_bytes()
    work, ledger = dom0.start()
    vms = {vm.name: id_ for id_, vm in ledger.vms().items()}
    ledger.set_vm(vms["over"], limit_bytes=10**12)
    vmlog.retire(ledger, vms["unpaid"], NOW)
    work.sync()
    assert blocked(ledger) == set()
    dom0.stop()
    dom0.over.write_bytes(over)
    _, ledger = dom0.start()
    assert blocked(ledger) == set()


def take_away(path: Path) -> None:
    path.unlink()


def replace_it(path: Path) -> None:
    shutil.copy(path, path.with_name("other"))
    path.with_name("other").rename(path)


@pytest.mark.parametrize(("take", "told"), [(take_away, "the file is gone"), (replace_it, "another file")])
def test_a_running_daemon_reports_that_its_ledger_is_gone_and_that_it_is_back(
    dom0: Dom0, take: Callable[[Path], None], told: str
) -> None:
    work, _ = dom0.start()
    dom0.path.with_name("kept").hardlink_to(dom0.path)
    take(dom0.path)
    work.cycle([])
    assert any(told in problem and "restart xenbwd" in problem for problem in work.status().document()["problems"])
    dom0.path.with_name("kept").rename(dom0.path)
    work.cycle([])
    assert not any(told in problem for problem in work.status().document()["problems"])


def test_reading_a_damaged_value_raises_corrupt_ledger_error(dom0: Dom0) -> None:
    garble(dom0.path, "block", "cause", "garbage", random.Random(1))
    garble(dom0.path, "event", "text", b"\xff\xfe", random.Random(1))
    with closing(Ledger.open(dom0.path)) as ledger:
        with pytest.raises(XenbwError, match="the ledger is damaged"):
            for vm_id in ledger.vms():
                blocklog.of_vm(ledger, vm_id)
        with pytest.raises(XenbwError, match="the ledger is damaged"):
            eventlog.newest(ledger, 100)

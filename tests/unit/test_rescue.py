"""A damaged ledger is set aside, what can be read goes on in a new one, and nobody comes free by it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.support.books import BOOT, add_vm, start_vif
from tests.support.clock import utc
from xenbw.accounting import Pending, Share
from xenbw.enforce import overfile
from xenbw.model import ZERO, Cause, Counters
from xenbw.report.explanation import UNKNOWN, explain
from xenbw.store import portions, rescue
from xenbw.store.ledger import Alive, Ledger, LedgerError

NOW = utc("2026-03-20 12:00")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with one VM in it that is blocked, and whose process is gone."""
    path = tmp_path / "ledger.db"
    with closing(Ledger.open(path, create=True)) as ledger:
        vm_id = add_vm(ledger, "web1", NOW, limit_bytes=1000, reset_day=7)
        ledger.block(vm_id, Cause.QUOTA, "over", NOW, None)
    return path


def test_a_sound_ledger_is_opened_as_it_is(path: Path) -> None:
    with closing(rescue.open_or_replace(path, path.with_name("over"), NOW)) as ledger:
        assert ledger.vm_named("web1") is not None
    assert [file.name for file in path.parent.glob("*damaged*")] == []


def test_one_found_damaged_in_use_is_set_aside_at_the_next_start_and_carried_over(path: Path) -> None:
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, path.with_name("over"), NOW)) as ledger:
        vm = ledger.vm_named("web1")
        assert vm is not None
        assert (vm.limit_bytes, vm.reset_day) == (1000, 7)
        assert vm.id in ledger.active_blocks()
        assert any("set aside" in text for _, _, text in ledger.events(5))
    assert path.with_name("ledger.db.damaged-20260320T120000Z").exists()
    with closing(rescue.open_or_replace(path, path.with_name("over"), utc("2026-03-21"))):
        pass
    assert len(list(path.parent.glob("*damaged*[Z]"))) == 1


def test_usage_that_was_carried_over_is_explained_as_that_of_no_interface_known_here(path: Path) -> None:
    march = utc("2026-03-01")
    with closing(Ledger.open(path)) as ledger:
        binding = start_vif(ledger, "web1", NOW, domid=1)
        amount = Counters(10, 1)
        pending = Pending((), ((binding.vm_id, Share(march, NOW, *amount, 0)),), ((binding.id, march, amount),))
        ledger.commit(pending, Alive(NOW, 1.0, BOOT))
    rescue.mark(path)
    with closing(rescue.open_or_replace(path, path.with_name("over"), NOW)) as ledger:
        lives = portions.lives(ledger, binding.vm_id, march)
        (line,) = explain(lives, ledger.usage_in(binding.vm_id, march), ZERO)
    assert (line.usage, line.why) == (amount, UNKNOWN)


def test_who_cannot_be_read_any_more_stays_blocked_by_name_and_address(path: Path) -> None:
    path.write_bytes(b"no ledger " * 1000)
    overfile.write(str(path.with_name("over")), str(path), [], [], {"web1": ["192.0.2.7"], "other": []})
    with closing(rescue.open_or_replace(path, path.with_name("over"), NOW)) as ledger:
        vms = {vm.name: vm for vm in ledger.vms().values()}
        assert {vms[name].id for name in ("web1", "other")} == set(ledger.active_blocks())
        assert [str(address) for address in vms["web1"].ips] == ["192.0.2.7"]


def test_a_newer_ledger_is_not_taken_for_a_damaged_one(path: Path) -> None:
    import sqlite3

    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="newer xenbw"):
        rescue.open_or_replace(path, path.with_name("over"), NOW)
    assert [file.name for file in path.parent.glob("*damaged*")] == []

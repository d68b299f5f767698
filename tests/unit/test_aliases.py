"""Which VMs used another MAC is kept in the ledger, which may be locked, and in the over file."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.clock import utc
from xenbw.hook import gate
from xenbw.ledger import aliases as kept
from xenbw.ledger.ledger import Ledger, LedgerError
from xenbw.meters.aliases import Aliases
from xenbw.nft import nft
from xenbw.rundir import overfile
from xenbw.rundir.overfile import Over

NOW, DAY = utc("2026-11-29 12:00"), timedelta(days=1)
NAME = "web\t1"


class _Kernel:
    """The set in the kernel: ifindex -> seconds left."""

    def __init__(self, **left: float) -> None:
        self.left = {int(key.removeprefix("vif")): seconds for key, seconds in left.items()}

    def aliased(self) -> dict[int, float]:
        return self.left


def followed(vm_id: int, ifindex: int) -> Any:
    return SimpleNamespace(vm_id=vm_id, key=SimpleNamespace(ifindex=ifindex))


def notice(ledger: Ledger, at: datetime, **left: float) -> Aliases:
    """A daemon's first look. left: vifN, of the VM N, -> seconds left."""
    aliases = Aliases(ledger, cast("Any", _Kernel(**left)))
    aliases.note([followed(int(vif.removeprefix("vif")), int(vif.removeprefix("vif"))) for vif in left], at)
    aliases.keep(at)
    return aliases


def test_it_is_kept_by_vm_until_the_kernel_would_forget_it(ledger: Ledger) -> None:
    aliases = Aliases(ledger, cast("Any", _Kernel(vif7=86_400)))
    aliases.note([followed(1, 7), followed(2, 8)], NOW)
    aliases.keep(NOW)
    assert kept.known(ledger, NOW) == {1: NOW + DAY}
    assert kept.known(ledger, NOW + DAY - timedelta(seconds=1)) == {1: NOW + DAY}
    assert kept.known(ledger, NOW + DAY) == {}


def test_what_an_earlier_daemon_kept_stays_until_its_time(ledger: Ledger) -> None:
    notice(ledger, NOW, vif1=86_400)
    notice(ledger, NOW + DAY / 2, vif2=86_400)
    assert kept.known(ledger, NOW + DAY / 2) == {1: NOW + DAY, 2: NOW + DAY * 1.5}
    notice(ledger, NOW + DAY, vif3=86_400)
    assert kept.known(ledger, NOW + DAY) == {2: NOW + DAY * 1.5, 3: NOW + 2 * DAY}


def test_a_vif_that_is_nearly_forgotten_shortens_nothing(ledger: Ledger) -> None:
    notice(ledger, NOW, vif1=86_400)
    notice(ledger, NOW, vif1=3600)
    assert kept.known(ledger, NOW) == {1: NOW + DAY}


def test_a_guest_that_sends_so_all_the_time_is_news_once(ledger: Ledger) -> None:
    aliases, told = Aliases(ledger, cast("Any", _Kernel(vif7=86_400))), 0
    for minute in range(60):
        aliases.note([followed(1, 7)], NOW + timedelta(minutes=minute))
        aliases.keep(NOW)
        told += aliases.take_news()
    assert told == 1
    assert kept.known(ledger, NOW)[1] >= NOW + DAY + timedelta(minutes=45)


def test_it_is_kept_once_the_ledger_can_be_written(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    aliases = Aliases(ledger, cast("Any", _Kernel(vif7=86_400)))
    aliases.note([followed(1, 7)], NOW)

    def locked(*_: object) -> None:
        raise LedgerError("the ledger is locked", "try again")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "set_meta", locked)
        with pytest.raises(LedgerError):
            aliases.keep(NOW)
    aliases.keep(NOW)
    assert kept.known(ledger, NOW) == {1: NOW + DAY}


def test_no_vm_is_remembered_for_more_than_a_day_when_the_clock_was_set_back(ledger: Ledger) -> None:
    kept.keep(ledger, {1: NOW + 2000 * DAY, 2: NOW + DAY / 2})
    kept.shorten(ledger, NOW)
    assert kept.known(ledger, NOW) == {1: NOW + DAY, 2: NOW + DAY / 2}
    kept.shorten(ledger, NOW + DAY / 4)
    assert kept.known(ledger, NOW) == {1: NOW + DAY, 2: NOW + DAY / 2}
    assert timedelta(seconds=nft.DAY) == kept.LONGEST


@pytest.mark.parametrize("damaged", ["1", "1 x", "x 1", "-1 5", "1 99999999999999999999", "\0"])
def test_a_damaged_value_is_none(ledger: Ledger, damaged: str) -> None:
    ledger.set_meta("aliased", damaged)
    assert kept.known(ledger, NOW) == {}


def test_the_hook_reads_it_as_the_daemon_wrote_it(tmp_path: Path) -> None:
    path = str(tmp_path / "over")
    overfile.write(path, "/ledger", [], [], {}, aliased={NAME: 12, "db": 7})
    over = overfile.read(path)
    assert over is not None
    assert over.aliased == {NAME: 12, "db": 7}


def test_a_damaged_line_harms_no_other(tmp_path: Path) -> None:
    path = tmp_path / "over"
    path.write_text("ledger\t/ledger\naliased\naliased\tweb1\tx\naliased\tdb\t7\n")
    over = overfile.read(str(path))
    assert over is not None
    assert over.aliased == {"db": 7}


def test_the_hook_heeds_it_until_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    over = Over()
    over.aliased[NAME] = 2_000_000
    for now, seconds in ((1_999_900, 100), (1_999_999, 1), (2_000_000, 0), (3_000_000, 0), (9, 86_400)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        assert gate.alias(NAME, 7, over) == (nft.alias(7, seconds) if seconds else "")
    assert gate.alias("db", 7, over) == ""

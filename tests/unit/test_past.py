"""Which values of the history are pushed to the book, and when."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.books import BOOT, add_vm, open_ledger, start_vif
from tests.support.clock import utc
from xenbw.accounting import Pending, Share, cell_start, hour_of
from xenbw.book import past
from xenbw.book.past import ROUNDS, Past, Piece, Round
from xenbw.book.sync import Marks, ResyncError, marks_path
from xenbw.config import HostSection, LedgerSection, MongodbSection, PeriodSection, Settings
from xenbw.errors import XenbwError
from xenbw.ledger import history, usagelog, vmlog
from xenbw.ledger.ledger import Alive
from xenbw.model import Amounts, Cell, Counters, Mark, Span

MARCH = utc("2026-03-01")
NOON = utc("2026-03-21 12:00")
PRAGUE = ZoneInfo("Europe/Prague")
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SENT = Amounts(0, 5)
REFUSED = Amounts(0, 0, 0, 0, 7)

Kept = dict[tuple[str, Span, datetime], Piece]


class Host:
    """A host with VMs web0 and web1 that pushes to a book, which is a dict. `now` is the clock."""

    def __init__(self, folder: Path, **section: int | None) -> None:
        self.ledger = open_ledger(folder)
        self.vms = [add_vm(self.ledger, f"web{number}", MARCH, period_start=MARCH) for number in range(2)]
        self.bindings = [start_vif(self.ledger, f"web{number}", MARCH, domid=number + 1) for number in range(2)]
        self.kept = LedgerSection(**{"keep_minutes": None, "keep_hours": None, **section})  # type: ignore[arg-type]
        self.now = NOON
        self.rounds = dict(ROUNDS)
        self.book: Kept = {}
        self.refuses = False
        self.restart()

    def restart(self) -> None:
        self.past = Past(Settings(ledger=self.kept, period=PeriodSection(timezone=PRAGUE)))

    def count(self, vm: int, amounts: Amounts, at: datetime | None = None) -> None:
        """Count bytes at a time of day, and commit them."""
        at = at or self.now
        share = (self.vms[vm], Share(MARCH, hour_of(at), amounts.in_bytes, amounts.out_bytes, 0))
        bindings = ((self.bindings[vm].id, amounts, Mark(Counters(0, 0)), self.now),)
        cell = (self.vms[vm], Cell(Span.FIVE_MINUTES, cell_start(at), amounts))
        shares = (share,) if any(amounts.usage) else ()
        usagelog.commit(self.ledger, Pending(bindings, shares, (), (cell,)), Alive(self.now, 1.0, BOOT))

    def push(self) -> Kept:
        """Push once. Returns what was written."""
        written: Kept = {}

        def write(_rev: int, pieces: Sequence[Piece]) -> None:
            if self.refuses:
                raise XenbwError("the book is away")
            written.update({(piece.vm.name, piece.span, piece.start): piece for piece in pieces})

        for name, last in self.rounds.items():
            self.rounds[name] = self.past.push(self.ledger, name, last, self.now, write) or last
        self.book |= written
        return written

    def agrees(self) -> bool:
        """Whether the book has the values of all spans that the ledger has, and no others."""
        return all(
            sorted(
                value
                for (name, of, _), piece in self.book.items()
                if (name, of) == (f"web{number}", span)
                for value in piece.values
            )
            == history.values(self.ledger, vm_id, span, utc("2000-01-01"), utc("2100-01-01"), PRAGUE)
            for number, vm_id in enumerate(self.vms)
            for span in Span
        )


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    with closing(made.ledger):
        yield made


def spans(written: Kept) -> list[Span]:
    return sorted(span for _, span, _ in written)


def test_the_first_push_has_all_values_of_all_spans(host: Host) -> None:
    for days in range(40):
        host.count(0, SENT, NOON - days * DAY)
    host.count(1, REFUSED)
    host.push()
    assert host.agrees()
    assert len(host.book) == 40 * 3 + 2 + 1 + 5
    host.now += MINUTE
    assert host.push() == {}


def test_a_document_of_minutes_has_an_hour_one_of_hours_has_a_day_and_each_other_one_value(host: Host) -> None:
    for minutes in (0, 5, 12, 55, 90):
        host.count(0, SENT, NOON + minutes * MINUTE)
    host.now += 2 * HOUR
    written = host.push()
    found = {(span, start): len(piece.values) for (_, span, start), piece in written.items()}
    assert found == {
        (Span.FIVE_MINUTES, NOON): 4,
        (Span.FIVE_MINUTES, NOON + HOUR): 1,
        (Span.HOUR, utc("2026-03-21")): 2,
        (Span.DAY, utc("2026-03-20 23:00")): 1,
        (Span.MONTH, utc("2026-02-28 23:00")): 1,
        (Span.YEAR, utc("2025-12-31 23:00")): 1,
    }


def test_later_pushes_come_each_five_minutes_with_whole_documents_of_vms_that_changed(host: Host) -> None:
    host.count(0, SENT)
    host.count(1, SENT)
    host.push()
    host.now += 4 * MINUTE
    host.count(0, SENT)
    assert host.push() == {}
    host.now += 2 * MINUTE
    host.count(0, SENT)
    written = host.push()
    assert spans(written) == [Span.FIVE_MINUTES, Span.HOUR, Span.DAY]
    assert {name for name, _, _ in written} == {"web0"}
    assert [amounts.out_bytes for _, amounts in written["web0", Span.FIVE_MINUTES, NOON].values] == [10, 5]


def test_months_and_years_are_pushed_once_a_day_of_the_zone(host: Host) -> None:
    host.push()
    host.count(0, SENT)
    host.now = utc("2026-03-21 22:59")
    assert Span.MONTH not in spans(host.push())
    host.now = utc("2026-03-21 23:00")
    assert spans(host.push()) == [Span.MONTH, Span.YEAR]
    assert host.agrees()


def test_refused_bytes_alone_are_pushed_as_well(host: Host) -> None:
    host.push()
    host.now += 6 * MINUTE
    host.count(0, REFUSED)
    assert spans(host.push()) == [Span.FIVE_MINUTES, Span.HOUR, Span.DAY]
    assert host.book["web0", Span.FIVE_MINUTES, NOON].values[0][1] == REFUSED


def test_refused_bytes_of_before_a_round_that_are_committed_after_it_are_pushed_next(host: Host) -> None:
    host.now = utc("2026-03-21 13:00")
    host.push()
    host.count(0, REFUSED, utc("2026-03-21 12:58"))
    host.now += 5 * MINUTE
    assert ("web0", Span.FIVE_MINUTES, NOON) in host.push()


def test_bytes_that_are_credited_to_hours_long_ago_are_pushed(host: Host) -> None:
    host.count(0, SENT)
    host.push()
    host.now += 6 * MINUTE
    usagelog.credit(host.ledger, host.vms[0], MARCH, utc("2026-03-03 03:00"), 9)
    assert ("web0", Span.HOUR, utc("2026-03-03")) in host.push()
    host.now += DAY
    host.push()
    assert host.agrees()


def test_bytes_that_moved_to_another_time_leave_documents_without_values(host: Host) -> None:
    wrong = utc("2026-01-05 10:00")
    host.ledger.set_vm(host.vms[0], period_start=utc("2026-01-01"))
    usagelog.commit(
        host.ledger,
        Pending(
            (),
            ((host.vms[0], Share(utc("2026-01-01"), wrong, 0, 5, 0)),),
            (),
            ((host.vms[0], Cell(Span.FIVE_MINUTES, wrong, SENT)),),
        ),
        Alive(NOON, 1.0, BOOT),
    )
    host.push()
    usagelog.refile_untimed(host.ledger, host.vms[0], utc("2026-01-01"), MARCH, host.now)
    host.now += DAY
    host.push()
    assert host.book["web0", Span.FIVE_MINUTES, wrong].values == ()
    assert host.agrees()


def test_values_expire_as_in_the_ledger(tmp_path: Path) -> None:
    host = Host(tmp_path, keep_minutes=2, keep_hours=30, keep_days=100)
    with closing(host.ledger):
        host.count(0, SENT)
        found = {span: piece.expires_at for (_, span, _), piece in host.push().items()}
        assert found == {
            Span.FIVE_MINUTES: NOON + HOUR + 2 * DAY,
            Span.HOUR: utc("2026-03-22") + 30 * DAY,
            Span.DAY: utc("2026-03-21 23:00") + 100 * DAY,
            Span.MONTH: None,
            Span.YEAR: None,
        }


def test_a_clock_that_was_a_year_ahead_for_a_while_hides_nothing(host: Host) -> None:
    host.count(0, SENT)
    host.push()
    host.now += 365 * DAY
    host.push()
    host.now = NOON + 10 * MINUTE
    host.count(0, REFUSED)
    host.push()
    host.now += DAY
    host.push()
    assert host.agrees()


def test_a_clock_that_was_years_behind_for_a_while_empties_no_document(host: Host) -> None:
    host.count(0, SENT)
    host.push()
    host.now = NOON - 4000 * DAY
    host.count(0, SENT, NOON + 10 * MINUTE)
    host.push()
    host.now = NOON + 2 * DAY
    host.push()
    assert host.agrees()


def test_a_write_that_fails_is_repeated(host: Host) -> None:
    host.count(0, SENT)
    host.refuses = True
    with pytest.raises(XenbwError):
        host.push()
    host.refuses = False
    host.push()
    assert host.agrees()


def test_a_round_goes_on_in_the_next_push_and_counts_only_as_a_whole(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.count(0, SENT)
    host.count(1, SENT)
    monkeypatch.setattr(past.time, "monotonic", iter(range(100)).__next__)
    monkeypatch.setattr(past, "_SECONDS", 1.5)
    assert len({name for name, _, _ in host.push()}) == 1
    assert host.rounds == ROUNDS
    assert len({name for name, _, _ in host.push()}) == 1
    assert host.agrees()
    assert host.rounds["history"].rev == host.ledger.meta("rev")


def test_after_a_resync_a_round_under_way_begins_anew(host: Host) -> None:
    host.count(0, SENT)
    host.count(1, SENT)
    host.push()
    host.now += 6 * MINUTE
    host.count(0, SENT)
    host.refuses = True
    with pytest.raises(XenbwError):
        host.push()
    host.refuses = False
    host.book, host.rounds = {}, dict(ROUNDS)
    host.push()
    assert host.agrees()


def test_a_removed_vm_keeps_its_history_and_the_next_of_its_name_has_its_own(host: Host) -> None:
    host.count(0, SENT)
    host.push()
    vmlog.retire(host.ledger, host.vms[0], host.now)
    host.now += 6 * MINUTE
    host.push()
    assert {piece.vm.found_at for piece in host.book.values() if piece.vm.name == "web0"} == {MARCH}


@pytest.mark.parametrize("text", [None, "", "{}"], ids=["marks", "a torn file", "an empty one"])
def test_marks_that_a_resync_removed_are_not_written_again(tmp_path: Path, text: str | None) -> None:
    settings = Settings(ledger=LedgerSection(path=tmp_path / "ledger.db"), mongodb=MongodbSection(uri="mongodb://x"))
    with closing(open_ledger(tmp_path)) as ledger:
        marks = Marks(settings, ledger)
        marks.move("usage", 5)  # there was no file before, and now there is one
        if text is not None:
            marks_path(settings).write_text(text)
            marks = Marks(settings, ledger)
        marks_path(settings).unlink()
        with pytest.raises(ResyncError):
            marks.move("event", 6)
        with pytest.raises(ResyncError):
            marks.finish("history", Round(ROUNDS["history"].spans, 7, NOON))
        assert [file.name for file in tmp_path.glob("ledger.db.book*")] == []
        assert set(Marks(settings, ledger).done.values()) == {0}


@pytest.mark.parametrize("text", ["", "{}", '{"rounds": 5}', '{"done": {"usage": 5}}'])
def test_marks_without_rounds_begin_the_history_anew(tmp_path: Path, text: str) -> None:
    settings = Settings(
        ledger=LedgerSection(path=tmp_path / "ledger.db"),
        mongodb=MongodbSection(uri="mongodb://x"),
        host=HostSection(name="a"),
    )
    with closing(open_ledger(tmp_path)) as ledger:
        marks = Marks(settings, ledger)
        this = Round(ROUNDS["history"].spans, 7, NOON)
        marks.move("usage", 5)
        marks.finish("history", this)
        assert Marks(settings, ledger).rounds == ROUNDS | {"history": this}
        kept = json.loads(marks_path(settings).read_text())
        assert kept["done"]["usage"] == 5  # as the version before reads it
        del kept["rounds"]
        marks_path(settings).write_text(json.dumps(kept))
        assert (Marks(settings, ledger).rounds, Marks(settings, ledger).done["usage"]) == (ROUNDS, 5)
        marks_path(settings).write_text(text)
        assert Marks(settings, ledger).rounds == ROUNDS


STEP = st.tuples(st.integers(0, 1), st.sampled_from([SENT, REFUSED, None]), st.integers(0, 400), st.booleans())


@given(st.lists(STEP, max_size=25))
def test_whatever_happens_when_the_book_has_every_value_in_the_end(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, Amounts | None, int, bool]]
) -> None:
    host = Host(tmp_path_factory.mktemp("ledger"))
    with closing(host.ledger):
        for vm, amounts, minutes, pushed in steps:
            host.now += minutes * MINUTE
            if amounts is not None:
                host.count(vm, amounts)
            if pushed:
                host.push()
            else:
                host.restart()
        host.now += DAY
        host.push()
        assert host.agrees()


def test_reading_what_a_push_needs_of_a_ledger_leaves_it_unchanged(host: Host) -> None:
    host.count(0, SENT)
    before = host.ledger.meta("rev")
    host.push()
    assert host.ledger.meta("rev") == before

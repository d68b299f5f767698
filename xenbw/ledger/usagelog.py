"""Usage by the hour and period, as the daemon writes it and the screens read it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from xenbw.accounting import Pending, hour_of
from xenbw.ledger import digests, folding, history, portions
from xenbw.ledger.ledger import Alive, Ledger
from xenbw.ledger.rows import mark_columns, time_of, to_text
from xenbw.model import Amounts, Cell, Counters, Span


def commit(ledger: Ledger, pending: Pending, alive: Alive) -> None:
    """Write what was counted since the last commit, and that this daemon was alive until then.

    An interface may have got another binding meanwhile (its domain was renamed, its VM removed). The new binding goes
    on from the mark written here, in the same transaction, or some bytes would be counted twice.
    """
    with ledger.transaction() as db:
        rev = ledger.rev
        db.executemany(
            "UPDATE binding SET last_in = ?, last_out = ?, own_last = ?, last_at = ?, rev = ?"
            " WHERE ended_at IS NULL AND (boot_id, ifindex) ="
            " (SELECT boot_id, ifindex FROM binding WHERE id = ? AND ended_at IS NOT NULL)",
            [(*mark_columns(mark), to_text(at), rev, id_) for id_, _, mark, at in pending.bindings],
        )
        db.executemany(
            "UPDATE binding SET in_bytes = ?, out_bytes = ?, flood_bytes = ?, refused_in_bytes = ?,"
            " refused_out_bytes = ?, last_in = ?, last_out = ?, own_last = ?, last_at = ?, rev = ? WHERE id = ?",
            ((*counted, *mark_columns(mark), to_text(at), rev, id_) for id_, counted, mark, at in pending.bindings),
        )
        db.executemany(
            "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " in_bytes = in_bytes + excluded.in_bytes, out_bytes = out_bytes + excluded.out_bytes,"
            " divided_bytes = divided_bytes + excluded.divided_bytes, rev = excluded.rev",
            (
                (vm_id, to_text(s.period_start), to_text(s.hour), s.in_bytes, s.out_bytes, s.divided_bytes, rev)
                for vm_id, s in pending.shares
            ),
        )
        portions.add(db, pending.portions)
        history.add(db, pending.cells)
        ledger.set_meta("alive", f"{to_text(alive.at)} {alive.elapsed} {alive.boot_id}")


def add_readings(ledger: Ledger, readings: Iterable[tuple[int, Counters, Counters]], at: datetime) -> None:
    """Keep raw readings: (binding_id, raw counters, the VM's usage in its period by then)."""
    with ledger.transaction() as db:
        text = to_text(at)
        db.executemany(
            "INSERT OR IGNORE INTO reading VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(binding_id, text, *raw, *used, ledger.rev) for binding_id, raw, used in readings],
        )


def present(ledger: Ledger) -> dict[int, Counters]:
    """Each VM's usage in its present period."""
    rows = ledger.rows(
        "SELECT vm_id, sum(in_bytes), sum(out_bytes) FROM usage JOIN vm ON vm.id = vm_id"
        " AND vm.period_start = usage.period_start WHERE retired_at IS NULL GROUP BY vm_id"
    )
    return {row[0]: Counters(row[1], row[2]) for row in rows}


def of_period(ledger: Ledger, vm_id: int, start: datetime) -> Counters:
    """The VM's usage in the period that starts there."""
    row = ledger.rows(
        "SELECT coalesce(sum(in_bytes), 0), coalesce(sum(out_bytes), 0) FROM usage"
        " WHERE vm_id = ? AND period_start = ?",
        vm_id,
        to_text(start),
    )[0]
    return Counters(row[0], row[1])


def since(ledger: Ledger, vm_id: int, start: datetime) -> Counters:
    """The VM's usage in the hours from `start` on, whichever period they were filed under."""
    row = ledger.rows(
        "SELECT coalesce(sum(in_bytes), 0), coalesce(sum(out_bytes), 0) FROM usage WHERE vm_id = ? AND hour >= ?",
        vm_id,
        to_text(start),
    )[0]
    return Counters(row[0], row[1])


def periods(ledger: Ledger, vm_id: int) -> list[tuple[datetime, Counters, int]]:
    """(period start, usage, bytes of it that were divided by time) of each period with usage, newest first."""
    rows = ledger.rows(
        "SELECT period_start, sum(in_bytes), sum(out_bytes), sum(divided_bytes) FROM usage WHERE vm_id = ?"
        " GROUP BY period_start HAVING sum(in_bytes) + sum(out_bytes) > 0 ORDER BY period_start DESC",
        vm_id,
    )
    return [(time_of(row[0]), Counters(row[1], row[2]), row[3]) for row in rows]


def hours(ledger: Ledger, vm_id: int, since: datetime) -> list[tuple[datetime, Counters]]:
    """(UTC hour, usage) from `since` on, oldest first. Usage of which only the sum is known (`credit`) has a time a
    microsecond past its hour."""
    rows = ledger.rows(
        "SELECT hour, sum(in_bytes), sum(out_bytes) FROM usage WHERE vm_id = ? AND hour >= ?"
        " GROUP BY hour ORDER BY hour",
        vm_id,
        to_text(since),
    )
    return [(time_of(row[0]), Counters(row[1], row[2])) for row in rows]


def credit(ledger: Ledger, vm_id: int, period_start: datetime, hour: datetime, in_bytes: int) -> None:
    """Add a sum that another program counted, as bytes to the VM. It is usage of the day and the period, but not of the
    hour: nobody knows its hours, and no forecast, percentile or chart of rates may take it for an hour's traffic."""
    with ledger.transaction() as db:
        db.execute(
            "INSERT INTO usage (vm_id, period_start, hour, in_bytes, out_bytes, rev) VALUES (?, ?, ?, ?, 0, ?)"
            " ON CONFLICT DO UPDATE SET in_bytes = in_bytes + excluded.in_bytes, rev = excluded.rev",
            (vm_id, to_text(period_start), to_text(hour + folding.UNTIMED), in_bytes, ledger.rev),
        )
        history.add(db, [(vm_id, Cell(Span.DAY, hour + history.UNTIMED, Amounts(in_bytes, 0)))])


def refile_untimed(ledger: Ledger, vm_id: int, before: datetime, start: datetime, now: datetime) -> None:
    """The VM's only period so far, and its hours, are by a clock that proved wrong: move usage in them from before the
    present period's `start` to the present hour."""
    if before >= start:
        return
    with ledger.transaction() as db:
        values = {"vm": vm_id, "before": to_text(before), "start": to_text(start), "rev": ledger.rev}
        values["hour"] = to_text(hour_of(now))
        moved = "vm_id = :vm AND period_start = :before AND hour < :start"
        db.execute(
            "INSERT INTO usage"  # noqa: S608 (a text of this function)
            " SELECT vm_id, :start, :hour, sum(in_bytes), sum(out_bytes), sum(divided_bytes), :rev"
            f" FROM usage WHERE {moved} GROUP BY vm_id ON CONFLICT DO UPDATE SET"
            " in_bytes = in_bytes + excluded.in_bytes, out_bytes = out_bytes + excluded.out_bytes,"
            " divided_bytes = divided_bytes + excluded.divided_bytes, rev = excluded.rev",
            values,
        )
        # The emptied rows stay, as in `refile`.
        db.execute(
            f"UPDATE usage SET in_bytes = 0, out_bytes = 0, divided_bytes = 0, rev = :rev WHERE {moved}",  # noqa: S608
            values,
        )
        portions.refile_all(db, vm_id, before, start)
        history.refile_untimed(db, vm_id, start, now)


def refile(ledger: Ledger, vm_id: int, start: datetime, rule: str) -> None:
    """The VM's rule for periods changed: its present period now starts at `start`. Move the usage of the hours since
    then to it."""
    with ledger.transaction() as db:
        values = {"vm": vm_id, "start": to_text(start), "rev": ledger.rev}
        moved = "FROM usage WHERE vm_id = :vm AND hour >= :start AND period_start != :start"
        db.execute(
            "INSERT INTO usage SELECT vm_id, :start, hour, sum(in_bytes), sum(out_bytes), sum(divided_bytes), :rev"
            f" {moved} GROUP BY hour ON CONFLICT DO UPDATE SET in_bytes = in_bytes + excluded.in_bytes,"
            " out_bytes = out_bytes + excluded.out_bytes,"
            " divided_bytes = divided_bytes + excluded.divided_bytes, rev = excluded.rev",
            values,
        )
        # The emptied rows stay: the book learns of a change by a row's rev, and never of a deleted row.
        db.execute(
            "UPDATE usage SET in_bytes = 0, out_bytes = 0, divided_bytes = 0, rev = :rev"
            " WHERE vm_id = :vm AND hour >= :start AND period_start != :start",
            values,
        )
        portions.refile(db, vm_id, start)
        digests.refile(db, vm_id, start, ledger.rev)
        ledger.set_vm(vm_id, period_start=start, period_rule=rule)

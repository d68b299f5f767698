"""The ledger: a SQLite file with everything this host knows. All SQL but the hook's share of it is here.

Daemon, hook and CLI open it side by side (WAL). Every write is one short transaction, stamped with a rev of its own;
nothing slow happens inside one, so that no lock is held for longer than the write itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from xenbw.accounting import Pending, hour_of
from xenbw.ledger import bindings, digests, portions
from xenbw.ledger.file import Alive, CorruptLedgerError, LedgerError, LedgerFile
from xenbw.ledger.rows import binding_of, block_of, mark_columns, time_of, to_column, to_text, vm_of
from xenbw.model import VM, Binding, Block, Cause, Counters

__all__ = ["Alive", "CorruptLedgerError", "Ledger", "LedgerError", "to_text"]

# Rows deleted in one transaction: some 20 ms. A minute brings one reading for each vif.
_PRUNED_AT_ONCE = 5000


class Ledger(LedgerFile):
    """What the ledger knows, as values of the model."""

    # VMs

    def vms(self) -> dict[int, VM]:
        """Every VM that was not retired, by id."""
        return {row["id"]: vm_of(row) for row in self.rows("SELECT * FROM vm WHERE retired_at IS NULL ORDER BY name")}

    def count_vms(self) -> int:
        """How many there are, or were. Raises LedgerError."""
        return int(self.rows("SELECT count(*) FROM vm")[0][0])

    def vm_named(self, name: str) -> VM | None:
        rows = self.rows("SELECT * FROM vm WHERE name = ? AND retired_at IS NULL", name)
        return vm_of(rows[0]) if rows else None

    def meet(self, name: str, at: datetime) -> VM:
        """The VM of that name; a name never seen gets a row of its own."""
        with self.transaction() as db:
            bindings.meet(db, name, str(to_text(at)), self.rev)
        vm = self.vm_named(name)
        assert vm is not None  # noqa: S101 (just written)
        return vm

    def set_vm(self, vm_id: int, **values: object) -> None:
        """Change columns of a VM; names as in model.VM."""
        columns = ", ".join(f"{key} = ?" for key in values)
        with self.transaction() as db:
            db.execute(
                f"UPDATE vm SET {columns}, rev = ? WHERE id = ?",  # noqa: S608 (keyword names of this program)
                (*(to_column(value) for value in values.values()), self.rev, vm_id),
            )

    def retire(self, vm_id: int, at: datetime) -> None:
        """Take the VM's row out of service: a later VM of that name starts clean. Its history stays.

        If it runs, its interfaces go on, from where they are, under a row that nobody added.
        """
        with self.transaction() as db:
            self.lift(vm_id, at, "the VM was removed")
            (name,) = db.execute("SELECT name FROM vm WHERE id = ?", (vm_id,)).fetchone()
            live = [
                binding_of(row)
                for row in self.rows("SELECT * FROM binding WHERE vm_id = ? AND ended_at IS NULL", vm_id)
            ]
            db.execute("UPDATE vm SET retired_at = ?, rev = ? WHERE id = ?", (to_text(at), self.rev, vm_id))
            # So that the book learns of whom this usage was, and nobody adds it to that of the next VM of this name.
            db.execute(
                "UPDATE usage SET rev = ? WHERE vm_id = ?"
                " AND period_start = (SELECT period_start FROM vm WHERE id = usage.vm_id)",
                (self.rev, vm_id),
            )
            for binding in live:
                self.end_binding(binding.id, at, "removed")
                self.bind(
                    at=at,
                    name=name,
                    boot_id=binding.boot_id,
                    domid=binding.domid,
                    devid=binding.devid,
                    kind=binding.kind.value,
                    ifindex=binding.ifindex,
                    interface=binding.interface,
                    mac=binding.mac,
                    ips=" ".join(map(str, binding.ips)),
                    bridge=binding.bridge,
                    since=to_text(binding.last_at),
                )

    # bindings

    def live_bindings(self) -> dict[int, Binding]:
        return {row["id"]: binding_of(row) for row in self.rows("SELECT * FROM binding WHERE ended_at IS NULL")}

    def live_on(self, boot_id: str, ifindex: int) -> list[Binding]:
        """The one of them, if there is, on that interface of that boot."""
        rows = self.rows(
            "SELECT * FROM binding WHERE boot_id = ? AND ifindex = ? AND ended_at IS NULL", boot_id, ifindex
        )
        return [binding_of(row) for row in rows]

    def bindings_of(self, vm_id: int, since: datetime) -> list[Binding]:
        """The VM's bindings that lived after `since`, oldest first."""
        rows = self.rows(
            "SELECT * FROM binding WHERE vm_id = ? AND (ended_at IS NULL OR ended_at > ?) ORDER BY started_at, id",
            vm_id,
            to_text(since),
        )
        return [binding_of(row) for row in rows]

    def ends_of(self, binding_ids: Iterable[int]) -> dict[int, datetime]:
        """When these bindings ended, of those that did."""
        wanted = list(binding_ids)
        marks = ", ".join("?" * len(wanted))
        rows = self.rows(
            f"SELECT id, ended_at FROM binding WHERE ended_at IS NOT NULL AND id IN ({marks})",  # noqa: S608 (marks)
            *wanted,
        )
        return {row[0]: time_of(row[1]) for row in rows}

    def ended_bindings(self, boot_id: str, ifindexes: Iterable[int]) -> list[Binding]:
        """The newest binding of each of these interfaces of that boot, where it has ended."""
        found = []
        for ifindex in ifindexes:
            rows = self.rows(
                "SELECT * FROM binding WHERE boot_id = ? AND ifindex = ? ORDER BY id DESC LIMIT 1", boot_id, ifindex
            )
            found += [binding_of(row) for row in rows if row["ended_at"] is not None]
        return found

    def bindings_of_domain(self, boot_id: str, domid: int) -> list[Binding]:
        """The bindings of a domain of that boot, oldest first."""
        rows = self.rows("SELECT * FROM binding WHERE boot_id = ? AND domid = ? ORDER BY id", boot_id, domid)
        return [binding_of(row) for row in rows]

    def latest_bindings(self) -> list[Binding]:
        """For each VM the bindings of its newest life, running or ended: where its addresses are known from."""
        rows = self.rows(
            "SELECT binding.* FROM binding JOIN (SELECT vm_id, max(id) AS id FROM binding GROUP BY vm_id) AS newest"
            " USING (vm_id) JOIN binding AS head ON head.id = newest.id"
            " WHERE binding.ended_at IS NULL OR (binding.boot_id = head.boot_id AND binding.domid = head.domid)"
        )
        return [binding_of(row) for row in rows]

    def bind(self, *, at: datetime, **facts: Any) -> int:
        """See bindings.bind."""
        with self.transaction() as db:
            return bindings.bind(db, at=str(to_text(at)), rev=self.rev, **facts)

    def end_binding(self, binding_id: int, at: datetime, reason: str) -> None:
        with self.transaction() as db:
            bindings.end(db, binding_id, str(to_text(at)), reason, self.rev)

    def rename_interface(self, binding_id: int, interface: str, bridge: str | None) -> None:
        """The binding's interface has another name, or stands on another bridge."""
        with self.transaction() as db:
            db.execute(
                "UPDATE binding SET interface = ?, bridge = coalesce(?, bridge), rev = ? WHERE id = ?",
                (interface, bridge, self.rev, binding_id),
            )

    def unbind(self, *, at: datetime, **facts: Any) -> None:
        """See bindings.unbind."""
        with self.transaction() as db:
            bindings.unbind(db, at=str(to_text(at)), rev=self.rev, **facts)

    # usage

    def commit(self, pending: Pending, alive: Alive, *, heirs: bool = False) -> None:
        """Write what was counted since the last commit, and that this daemon was alive until then.

        heirs: an interface may have gone over to another binding meanwhile (its domain renamed, its VM removed); that
        one then goes on from what is written here, in the same transaction, or a crash would count some bytes twice.
        """
        with self.transaction() as db:
            rev = self.rev
            if heirs:
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
            self.set_meta("alive", f"{to_text(alive.at)} {alive.elapsed} {alive.boot_id}")

    def add_readings(self, readings: Iterable[tuple[int, Counters, Counters]], at: datetime) -> None:
        """Keep for the record: (binding_id, raw counters, the VM's usage in its period by then)."""
        with self.transaction() as db:
            text = to_text(at)
            db.executemany(
                "INSERT OR IGNORE INTO reading VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(binding_id, text, *raw, *used, self.rev) for binding_id, raw, used in readings],
            )

    def usage(self) -> dict[int, Counters]:
        """Each VM's usage in its present period."""
        rows = self.rows(
            "SELECT vm_id, sum(in_bytes), sum(out_bytes) FROM usage JOIN vm ON vm.id = vm_id"
            " AND vm.period_start = usage.period_start WHERE retired_at IS NULL GROUP BY vm_id"
        )
        return {row[0]: Counters(row[1], row[2]) for row in rows}

    def usage_in(self, vm_id: int, start: datetime) -> Counters:
        """A VM's usage in the period that starts there."""
        row = self.rows(
            "SELECT coalesce(sum(in_bytes), 0), coalesce(sum(out_bytes), 0) FROM usage"
            " WHERE vm_id = ? AND period_start = ?",
            vm_id,
            to_text(start),
        )[0]
        return Counters(row[0], row[1])

    def usage_since(self, vm_id: int, start: datetime) -> Counters:
        """A VM's usage in the hours from `start` on, whichever period they were filed under."""
        row = self.rows(
            "SELECT coalesce(sum(in_bytes), 0), coalesce(sum(out_bytes), 0) FROM usage WHERE vm_id = ? AND hour >= ?",
            vm_id,
            to_text(start),
        )[0]
        return Counters(row[0], row[1])

    def history(self, vm_id: int) -> list[tuple[datetime, Counters, int]]:
        """(period start, usage, bytes of it that were divided by time) per period, newest first."""
        rows = self.rows(
            "SELECT period_start, sum(in_bytes), sum(out_bytes), sum(divided_bytes) FROM usage WHERE vm_id = ?"
            " GROUP BY period_start HAVING sum(in_bytes) + sum(out_bytes) > 0 ORDER BY period_start DESC",
            vm_id,
        )
        return [(time_of(row[0]), Counters(row[1], row[2]), row[3]) for row in rows]

    def hours(self, vm_id: int, since: datetime) -> list[tuple[datetime, Counters]]:
        """(UTC hour, usage) from `since` on, oldest first."""
        rows = self.rows(
            "SELECT hour, sum(in_bytes), sum(out_bytes) FROM usage WHERE vm_id = ? AND hour >= ?"
            " GROUP BY hour ORDER BY hour",
            vm_id,
            to_text(since),
        )
        return [(time_of(row[0]), Counters(row[1], row[2])) for row in rows]

    def refile_untimed(self, vm_id: int, before: datetime, start: datetime, now: datetime) -> None:
        """The VM's only period so far was reckoned by a clock that proved wrong, and so were the hours in it: what
        was counted by that clock before the present period's `start` passed just now."""
        if before >= start:
            return
        with self.transaction() as db:
            values = {"vm": vm_id, "before": to_text(before), "start": to_text(start), "rev": self.rev}
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
            # They stay, empty, as those of `refile` do.
            db.execute(
                f"UPDATE usage SET in_bytes = 0, out_bytes = 0, divided_bytes = 0, rev = :rev WHERE {moved}",  # noqa: S608
                values,
            )
            portions.refile_all(db, vm_id, before, start)

    def refile(self, vm_id: int, start: datetime, rule: str) -> None:
        """The VM's rule for periods changed: its present period now starts at `start`, and the usage of the hours since
        then belongs to it."""
        with self.transaction() as db:
            values = {"vm": vm_id, "start": to_text(start), "rev": self.rev}
            moved = "FROM usage WHERE vm_id = :vm AND hour >= :start AND period_start != :start"
            db.execute(
                "INSERT INTO usage SELECT vm_id, :start, hour, sum(in_bytes), sum(out_bytes), sum(divided_bytes), :rev"
                f" {moved} GROUP BY hour ON CONFLICT DO UPDATE SET in_bytes = in_bytes + excluded.in_bytes,"
                " out_bytes = out_bytes + excluded.out_bytes,"
                " divided_bytes = divided_bytes + excluded.divided_bytes, rev = excluded.rev",
                values,
            )
            # The rows stay, empty: the book learns of a change by its rev, and never of a row that is gone.
            db.execute(
                "UPDATE usage SET in_bytes = 0, out_bytes = 0, divided_bytes = 0, rev = :rev"
                " WHERE vm_id = :vm AND hour >= :start AND period_start != :start",
                values,
            )
            portions.refile(db, vm_id, start)
            digests.refile(db, vm_id, start, self.rev)
            self.set_vm(vm_id, period_start=start, period_rule=rule)

    # what the book says

    def elsewhere(self) -> dict[int, tuple[datetime, Counters]]:
        """(period start, usage on other hosts in it) of each VM that ran on some, as the book last said."""
        return {
            row["vm_id"]: (time_of(row["period_start"]), Counters(row["in_bytes"], row["out_bytes"]))
            for row in self.rows("SELECT * FROM elsewhere")
        }

    def set_elsewhere(self, vm_id: int, start: datetime, usage: Counters) -> None:
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO elsewhere VALUES (?, ?, ?, ?)", (vm_id, to_text(start), *usage))

    def bases(self) -> dict[int, str]:
        """What this host and the book last agreed on, as text, of each VM that the book knows; removed ones too."""
        return {row[0]: row[1] for row in self.rows("SELECT id, book_base FROM vm WHERE book_base IS NOT NULL")}

    def retired(self) -> dict[int, tuple[str, datetime]]:
        """(name, when) of the VMs that were removed and that the book may still have."""
        rows = self.rows("SELECT id, name, retired_at FROM vm WHERE retired_at IS NOT NULL AND book_base IS NOT NULL")
        return {row[0]: (row[1], time_of(row[2])) for row in rows}

    # blocks and events

    def active_blocks(self) -> dict[int, Block]:
        """The blocks in force, by VM id."""
        return {row["vm_id"]: block_of(row) for row in self.rows("SELECT * FROM block WHERE lifted_at IS NULL")}

    def blocks_of(self, vm_id: int) -> list[Block]:
        """The VM's blocks, newest first."""
        return [block_of(row) for row in self.rows("SELECT * FROM block WHERE vm_id = ? ORDER BY id DESC", vm_id)]

    def block(self, vm_id: int, cause: Cause, reason: str, since: datetime, until: datetime | None) -> None:
        """Record a block in force. One that is already there keeps its beginning and takes the new cause and end."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO block (vm_id, cause, reason, since, until, rev) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (vm_id) WHERE lifted_at IS NULL DO UPDATE SET cause = excluded.cause,"
                " reason = excluded.reason, until = excluded.until, rev = excluded.rev",
                (vm_id, cause.value, reason, to_text(since), to_text(until), self.rev),
            )

    def lift(self, vm_id: int, at: datetime, reason: str) -> None:
        """Record the end of the VM's block."""
        with self.transaction() as db:
            db.execute(
                "UPDATE block SET lifted_at = ?, lift_reason = ?, rev = ? WHERE vm_id = ? AND lifted_at IS NULL",
                (to_text(at), reason, self.rev, vm_id),
            )

    def record(self, at: datetime, kind: str, text: str, vm_id: int | None = None) -> None:
        """Note an event for the admin."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO event (at, vm_id, kind, text, rev) VALUES (?, ?, ?, ?, ?)",
                (to_text(at), vm_id, kind, text, self.rev),
            )

    def events(self, limit: int) -> list[tuple[datetime, str, str]]:
        """The newest events, (time, kind, text), newest first."""
        rows = self.rows("SELECT at, kind, text FROM event ORDER BY id DESC LIMIT ?", limit)
        return [(time_of(row[0]), row[1], row[2]) for row in rows]

    def events_since(self, kind: str, since: datetime) -> list[tuple[datetime, str]]:
        """(time, text) of the events of a kind, oldest first."""
        rows = self.rows("SELECT at, text FROM event WHERE kind = ? AND at >= ? ORDER BY id", kind, to_text(since))
        return [(time_of(row[0]), row[1]) for row in rows]

    def prune(self, readings_before: datetime, history_before: datetime) -> None:
        """Forget raw readings, and history of bindings, blocks, events and sent messages, from before these times, some
        thousand rows at a time, so that nobody waits for it. Usage stays."""
        old = to_text(history_before)
        for table, condition, before in (
            ("reading", "at < ?", to_text(readings_before)),
            ("event", "at < ?", old),
            ("block", "lifted_at < ?", old),
            ("outbox", "sent_at < ?", old),
            ("digest", "ended_at < ?", old),
            (
                "binding",
                "ended_at < ? AND id NOT IN (SELECT max(id) FROM binding GROUP BY vm_id)",
                to_text(min(history_before, readings_before)),
            ),
        ):
            key = "(at, binding_id)" if table == "reading" else "id"
            columns = key.strip("()")
            with self.transaction() as db:
                db.execute(
                    f"DELETE FROM {table} WHERE {key} IN"  # noqa: S608 (names of this function)
                    f" (SELECT {columns} FROM {table} WHERE {condition} LIMIT {_PRUNED_AT_ONCE})",
                    (before,),
                )

"""Rows of the ledger as documents of the book: whole, with absolute values, under an _id made of what identifies the
thing itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

from bson.int64 import Int64

from xenbw.book import changes
from xenbw.book.changes import Chunk
from xenbw.book.past import Piece
from xenbw.ledger import folding
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import to_text, to_time
from xenbw.model import Amounts, Span

_SPANS = {Span.FIVE_MINUTES: "5min", Span.HOUR: "hour", Span.DAY: "day", Span.MONTH: "month", Span.YEAR: "year"}

Document = dict[str, Any]


class Documents:
    """The documents of one host. keep: how long samples stay in the book."""

    def __init__(self, host: str, keep: timedelta) -> None:
        self._host, self._keep = host, keep

    def of(self, ledger: Ledger, chunk: Chunk) -> Iterator[tuple[str, list[Document]]]:
        """(collection, documents) for rows of the ledger."""
        version = {"ledger": ledger.meta("id")}  # revs can be compared within one ledger only
        match chunk.table:
            case "binding":
                yield "bindings", [self._binding(row) | version for row in chunk.rows]
            case "reading":
                yield "samples", [self._sample(row) for row in chunk.rows]
            case "usage":
                yield (
                    "usage",
                    [
                        document | version
                        for spans in (
                            self._hours(chunk.rows),
                            self._days(ledger, chunk.rows),
                            self._periods(ledger, chunk.rows),
                        )
                        for document in spans
                    ],
                )
            case "digest":
                yield "digests", [self._digest(row) | version for row in chunk.rows]
            case "event":
                yield "events", [self._event(row) for row in chunk.rows]

    def binding_id(self, row: sqlite3.Row) -> str:
        return f"{self._host}/{row['boot_id']}/{row['ifindex']}/{row['started_at']}"

    def _binding(self, row: sqlite3.Row) -> Document:
        return {
            "_id": self.binding_id(row),
            "host": self._host,
            "vm": row["vm"],
            "boot_id": row["boot_id"],
            "domid": row["domid"],
            "devid": row["devid"],
            "kind": row["kind"],
            "interface": row["interface"],
            "mac": row["mac"],
            "ips": row["ips"].split(),
            "bridge": row["bridge"],
            "started_at": to_time(row["started_at"]),
            "ended_at": to_time(row["ended_at"]),
            "end_reason": row["end_reason"],
            "in_bytes": Int64(row["in_bytes"]),
            "out_bytes": Int64(row["out_bytes"]),
            "rev": Int64(row["rev"]),
        }

    def _sample(self, row: sqlite3.Row) -> Document:
        at = datetime.fromisoformat(row["at"])
        return {
            "_id": f"{self._host}/{row['boot_id']}/{row['ifindex']}/{row['at']}",
            "host": self._host,
            "vm": row["vm"],
            "interface": row["interface"],
            "domid": row["domid"],
            "devid": row["devid"],
            "at": at,
            "in_raw": Int64(row["in_raw"]),
            "out_raw": Int64(row["out_raw"]),
            "in_bytes": Int64(row["in_bytes"]),
            "out_bytes": Int64(row["out_bytes"]),
            "expires_at": at + self._keep,
        }

    def _hours(self, rows: Iterable[sqlite3.Row]) -> Iterator[Document]:
        for row in (row for row in rows if folding.is_hour(row["hour"])):
            yield self._usage(row, row, "hour", row["hour"], f"{row['period_start']}/{row['hour']}")

    def _days(self, ledger: Ledger, rows: Iterable[sqlite3.Row]) -> Iterator[Document]:
        for (vm_id, day), row in {(row["vm_id"], row["hour"][:10]): row for row in rows}.items():
            yield self._usage(row, changes.day_sums(ledger, vm_id, day), "day", f"{day}T00:00:00+00:00", day)

    def _periods(self, ledger: Ledger, rows: Iterable[sqlite3.Row]) -> Iterator[Document]:
        for (vm_id, start), row in {(row["vm_id"], row["period_start"]): row for row in rows}.items():
            yield self._usage(row, changes.sums(ledger, vm_id, start), "period", start, start)

    def _usage(self, row: sqlite3.Row, sums: sqlite3.Row, span: str, start: str, key: str) -> Document:
        return {
            # found_at tells a VM from an earlier one of the same name that was removed.
            "_id": f"{self._host}/{row['vm']}/{row['found_at']}/{span}/{key}",
            "host": self._host,
            "vm": row["vm"],
            "span": span,
            "start": to_time(start),
            "period_start": None if span == "day" else to_time(row["period_start"]),
            "in_bytes": Int64(sums["in_bytes"]),
            "out_bytes": Int64(sums["out_bytes"]),
            "divided_bytes": Int64(sums["divided_bytes"]),
            "removed_at": to_time(row["retired_at"]),
            "rev": Int64(row["rev"]),
        }

    def _digest(self, row: sqlite3.Row) -> Document:
        return {
            "_id": f"{self._host}/{row['vm']}/{row['found_at']}/{row['period_start']}/{row['end_reason']}",
            "host": self._host,
            "vm": row["vm"],
            "period_start": to_time(row["period_start"]),
            "lives": row["lives"],
            "started_at": to_time(row["started_at"]),
            "ended_at": to_time(row["ended_at"]),
            "end_reason": row["end_reason"],
            "ips": row["ips"].split(),
            **{column: Int64(row[column]) for column in Amounts._fields},
            "rev": Int64(row["rev"]),
        }

    def _event(self, row: sqlite3.Row) -> Document:
        return {
            "_id": f"{self._host}/{row['at']}/{row['id']}",
            "host": self._host,
            "vm": row["vm"],
            "at": to_time(row["at"]),
            "kind": row["kind"],
            "text": row["text"],
        }

    def past(self, piece: Piece) -> Document:
        """A piece of a VM's history."""
        vm, span = piece.vm, _SPANS[piece.span]
        return {
            "_id": f"{self._host}/{vm.name}/{to_text(vm.found_at)}/{span}/{to_text(piece.start)}",
            "host": self._host,
            "vm": vm.name,
            "found_at": vm.found_at,
            "span": span,
            "start": piece.start,
            "values": [
                {"start": start, **{kind: Int64(amount) for kind, amount in amounts._asdict().items()}}
                for start, amounts in piece.values
            ],
            "expires_at": piece.expires_at,
        }

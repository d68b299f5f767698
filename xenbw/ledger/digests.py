"""Digests: sums over a VM's older bindings, so that a guest that reboots all day leaves few rows.

Of the bindings of a VM that ended in a calendar month (UTC), the latest KEPT keep their rows. Older ones are folded
into digests, one for each period and reason of their end. A digest's usage is what these bindings counted in its
period. Flood bytes, refused bytes and the number of lives are in the digest of the period in which a life ended.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime

from xenbw.ledger import portions
from xenbw.ledger.ledger import Ledger
from xenbw.ledger.rows import digest_of, to_text
from xenbw.model import Amounts, Digest

KEPT = 100
# Folded in one transaction: some 40 ms.
_AT_ONCE = 2000

_CHOSEN = "(SELECT value FROM json_each(:chosen))"
# The period in which a life ended; the present period for a life that ended before all known periods.
_HOME = """coalesce((SELECT max(start) FROM (
    SELECT max(period_start) AS start FROM binding_usage WHERE binding_id = binding.id
    UNION ALL SELECT max(period_start) FROM usage WHERE usage.vm_id = vm.id AND period_start < ended_at
    UNION ALL SELECT vm.period_start WHERE vm.period_start < ended_at)), vm.period_start)"""


@dataclass(frozen=True)
class _Key:
    """The key of a digest in the ledger."""

    vm_id: int
    period_start: str
    end_reason: str


def fold(ledger: Ledger, boot_id: str, busy: Callable[[], Collection[int]], keep: int = KEPT) -> int:
    """Fold some of the lives beyond the latest `keep` of each VM and month, the oldest first. Returns how many.

    busy(): the ifindexes of this boot whose last bytes may not be counted yet; called only if there are lives to fold.
    Only the daemon removes bindings, and an ended binding stays ended, so the choice holds until the transaction.
    Raises LedgerError.
    """
    over = _over(ledger, keep)
    counting = busy() if over else ()
    ids = [id_ for id_, boot, ifindex in over if boot != boot_id or ifindex not in counting]
    if not ids:
        return 0
    readings = _readings_of(ledger, ids)
    chosen = {"chosen": json.dumps(ids)}
    with ledger.transaction() as db:
        for key, digest in [*_lives(db, chosen), *_usage(db, chosen)]:
            _add(db, key, digest, ledger.rev)
        db.executemany("DELETE FROM reading WHERE at = ? AND binding_id = ?", readings)
        db.execute(f"DELETE FROM binding WHERE id IN {_CHOSEN}", chosen)  # noqa: S608 (a text of this module)
    return len(ids)


def _over(ledger: Ledger, keep: int) -> list[tuple[int, str, int]]:
    """(id, boot_id, ifindex) of lives that can be folded."""
    found: list[tuple[int, str, int]] = []
    for vm_id, month, count in ledger.rows(
        "SELECT vm_id, substr(ended_at, 1, 7) AS month, count(*) FROM binding WHERE ended_at IS NOT NULL"
        " GROUP BY vm_id, month HAVING count(*) > ?",
        keep,
    ):
        # An interface that is live under another binding keeps all of its bindings.
        rows = ledger.rows(
            "SELECT id, boot_id, ifindex FROM binding WHERE vm_id = ? AND substr(ended_at, 1, 7) = ?"
            " AND ended_at IS NOT NULL AND EXISTS (SELECT 1 FROM vm WHERE vm.id = vm_id AND period_start IS NOT NULL)"
            " AND NOT EXISTS (SELECT 1 FROM binding AS live WHERE live.ended_at IS NULL"
            " AND live.boot_id = binding.boot_id AND live.ifindex = binding.ifindex) ORDER BY id LIMIT ?",
            vm_id,
            month,
            min(count - keep, _AT_ONCE - len(found)),
        )
        found += [(row[0], row[1], row[2]) for row in rows]
    return found


def _readings_of(ledger: Ledger, ids: Collection[int]) -> list[tuple[str, int]]:
    """The (at, binding_id) of their readings, found moment by moment, since the key begins with the time."""
    rows = ledger.rows(
        "WITH RECURSIVE moment (at) AS (SELECT min(at) FROM reading UNION ALL"
        " SELECT (SELECT min(at) FROM reading WHERE at > moment.at) FROM moment WHERE moment.at IS NOT NULL)"
        " SELECT reading.at, binding_id FROM moment CROSS JOIN reading"
        " ON reading.at = moment.at AND binding_id BETWEEN ? AND ?",
        min(ids),
        max(ids),
    )
    folded = set(ids)
    return [(row[0], row[1]) for row in rows if row[1] in folded]


def _lives(db: sqlite3.Connection, chosen: dict[str, str]) -> list[tuple[_Key, Digest]]:
    """How many lives ended in which period, and their flood and refused bytes."""
    rows = db.execute(
        "SELECT vm_id, period_start, coalesce(end_reason, '') AS end_reason, count(*) AS lives,"  # noqa: S608 (ours)
        " min(started_at) AS started_at, max(ended_at) AS ended_at,"
        " replace(group_concat(DISTINCT ips), ',', ' ') AS ips, 0 AS in_bytes, 0 AS out_bytes,"
        " sum(flood_bytes) AS flood_bytes, sum(refused_in_bytes) AS refused_in_bytes,"
        f" sum(refused_out_bytes) AS refused_out_bytes FROM (SELECT binding.*, {_HOME} AS period_start"
        f" FROM binding JOIN vm ON vm.id = vm_id WHERE binding.id IN {_CHOSEN}) GROUP BY 1, 2, 3",
        chosen,
    )
    return [(_key_of(row), digest_of(row)) for row in rows.fetchall()]


def _usage(db: sqlite3.Connection, chosen: dict[str, str]) -> list[tuple[_Key, Digest]]:
    """What they counted in which period."""
    rows = db.execute(
        "SELECT vm_id, period_start, coalesce(end_reason, '') AS end_reason, 0 AS lives, min(started_at) AS started_at,"  # noqa: S608
        " max(ended_at) AS ended_at, '' AS ips, sum(binding_usage.in_bytes) AS in_bytes,"
        " sum(binding_usage.out_bytes) AS out_bytes, 0 AS flood_bytes, 0 AS refused_in_bytes, 0 AS refused_out_bytes"
        f" FROM binding JOIN binding_usage ON binding_id = binding.id WHERE binding.id IN {_CHOSEN} GROUP BY 1, 2, 3",
        chosen,
    )
    return [(_key_of(row), digest_of(row)) for row in rows.fetchall()]


def _key_of(row: sqlite3.Row) -> _Key:
    return _Key(row["vm_id"], row["period_start"], row["end_reason"])


def _add(db: sqlite3.Connection, key: _Key, more: Digest, rev: int) -> None:
    columns = (key.vm_id, key.period_start, key.end_reason)
    row = db.execute(
        "SELECT * FROM digest WHERE vm_id = ? AND period_start = ? AND end_reason = ? AND lives + in_bytes + out_bytes",
        columns,
    ).fetchone()
    both = more if row is None else _plus(digest_of(row), more)
    db.execute(
        "INSERT INTO digest (vm_id, period_start, end_reason, lives, started_at, ended_at, ips, in_bytes, out_bytes,"
        " flood_bytes, refused_in_bytes, refused_out_bytes, rev) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (vm_id, period_start, end_reason) DO UPDATE SET lives = excluded.lives,"
        " started_at = excluded.started_at, ended_at = excluded.ended_at, ips = excluded.ips,"
        " in_bytes = excluded.in_bytes, out_bytes = excluded.out_bytes, flood_bytes = excluded.flood_bytes,"
        " refused_in_bytes = excluded.refused_in_bytes, refused_out_bytes = excluded.refused_out_bytes,"
        " rev = excluded.rev",
        (
            *columns,
            both.lives,
            to_text(both.started_at),
            to_text(both.ended_at),
            " ".join(map(str, both.ips)),
            *both.counted,
            rev,
        ),
    )


def _plus(one: Digest, other: Digest) -> Digest:
    return replace(
        one,
        lives=one.lives + other.lives,
        started_at=min(one.started_at, other.started_at),
        ended_at=max(one.ended_at, other.ended_at),
        ips=tuple(dict.fromkeys(one.ips + other.ips)),
        counted=one.counted.plus(other.counted),
    )


def refile(db: sqlite3.Connection, vm_id: int, start: datetime, rev: int) -> None:
    """The VM's present period now starts at `start`: move digests there whose lives all lie in it."""
    values = {"vm": vm_id, "rev": rev, **portions.times(start)}
    moved = f"vm_id = :vm AND period_start != :start AND {portions.SINCE}"
    rows = db.execute(f"SELECT * FROM digest WHERE {moved}", values).fetchall()  # noqa: S608 (texts of this room)
    # The emptied rows stay, as those of usage do, so that the book learns of the change.
    zeros = ", ".join(f"{what} = 0" for what in ("lives", *Amounts._fields))
    db.execute(f"UPDATE digest SET {zeros}, rev = :rev WHERE {moved}", values)  # noqa: S608 (as above)
    for row in rows:
        _add(db, _Key(vm_id, str(to_text(start)), row["end_reason"]), digest_of(row), rev)


def of_period(ledger: Ledger, vm_id: int, start: datetime, *, refiled: bool = False) -> list[Digest]:
    """The VM's digests of lives that lie in the period from `start` on, or counted something in it, the earliest first.
    refiled: as they would be after `refile`. Raises LedgerError."""
    counted = f"(period_start = :start OR {portions.SINCE})" if refiled else "period_start = :start"
    rows = ledger.rows(
        f"SELECT * FROM digest WHERE vm_id = :vm AND {counted}"  # noqa: S608 (texts of this room)
        " AND (ended_at > :start AND lives > 0 OR in_bytes + out_bytes > 0) ORDER BY id",
        vm=vm_id,
        **portions.times(start),
    )
    found: dict[str, Digest] = {}
    for row in rows:
        digest = digest_of(row)
        before = found.get(digest.end_reason)
        found[digest.end_reason] = digest if before is None else _plus(before, digest)
    return sorted(found.values(), key=lambda digest: digest.started_at)

"""The history in the book: every value of every span, whatever happens to the server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson.int64 import Int64

from tests.support.bookkeeper import Books, pushes
from tests.support.clock import utc
from tests.support.mongoaccess import KEEPER
from tests.support.mongod import Mongod
from tests.support.pace import until
from xenbw.book.sync import marks_path
from xenbw.errors import XenbwError
from xenbw.ledger import history
from xenbw.model import Amounts, Span

pytestmark = pytest.mark.mongo

SPANS = {"5min": Span.FIVE_MINUTES, "hour": Span.HOUR, "day": Span.DAY, "month": Span.MONTH, "year": Span.YEAR}


def base(server: Mongod) -> Any:
    return server.client(tz_aware=True)[KEEPER.database]


def in_book(server: Mongod, vm: str, span: str) -> list[tuple[datetime, Amounts]]:
    rows = base(server).history.find({"vm": vm, "span": span}).sort("start", 1)
    return [
        (value.pop("start").astimezone(UTC), Amounts(**{kind: int(amount) for kind, amount in value.items()}))
        for row in rows
        for value in row["values"]
    ]


def agrees(books: Books, server: Mongod) -> bool:
    """Whether the book has all values of the ledger's history, and no others."""
    return all(
        in_book(server, f"web{number}", span)
        == history.values(books.ledger, vm_id, SPANS[span], utc("2000-01-01"), utc("2100-01-01"), UTC)
        for number, vm_id in enumerate(books.vms)
        for span in SPANS
    )


def test_every_value_of_every_span_reaches_the_book(books: Books, server: Mongod) -> None:
    books.live(90)
    books.sync.push()
    assert agrees(books, server)
    books.live(30)
    books.sync.push()
    assert in_book(server, "web3", "hour")[-1] == (utc("2026-03-20 14:00"), Amounts(1000, 100, 10, 2, 1))
    assert sum(amounts.in_bytes for _, amounts in in_book(server, "web3", "5min")) == 120_000
    books.clock.go(days=1)
    books.live(1)
    books.sync.push()
    assert agrees(books, server)


def test_values_are_64_bit_integers_and_dates_and_expire_as_the_ledger_says(books: Books, server: Mongod) -> None:
    books.live(1)
    books.sync.push()
    minutes = base(server).history.find_one({"vm": "web0", "span": "5min"})
    assert {type(minutes["values"][0][kind]) for kind in Amounts._fields} == {Int64}
    assert (minutes["start"], minutes["values"][0]["start"]) == (utc("2026-03-20 12:00"), utc("2026-03-20 12:00"))
    assert minutes["expires_at"] == utc("2026-03-20 13:00") + timedelta(days=3650)
    assert base(server).history.find_one({"vm": "web0", "span": "day"})["expires_at"] is None
    assert base(server).history.index_information()["expires_at_1"]["expireAfterSeconds"] == 0


@pytest.mark.usefixtures("impatient")
def test_a_server_killed_during_pushes_has_every_value_in_the_end(books: Books, server: Mongod) -> None:
    for _ in range(3):
        books.live(30)
        server.kill()
        with pytest.raises(XenbwError):
            books.sync.push()
        server.start()
        assert until(lambda: pushes(books))
    books.clock.go(days=1)
    books.sync.push()
    assert agrees(books, server)


def test_an_emptied_server_gets_the_history_again_by_a_resync(books: Books, server: Mongod) -> None:
    books.live(20)
    books.sync.push()
    server.wipe()
    books.live(10)
    books.sync.push()
    assert not agrees(books, server)
    marks_path(books.settings).unlink()
    books.sync.push()
    assert agrees(books, server)


def test_an_older_request_that_arrives_late_replaces_nothing(books: Books, server: Mongod) -> None:
    books.live(10)
    books.sync.push()
    late = base(server).history.find_one({"vm": "web0", "span": "day"})
    books.live(10)
    books.sync.push()
    assert books.sync._book is not None
    books.sync._book.write("history", [late])
    assert sum(amounts.in_bytes for _, amounts in in_book(server, "web0", "day")) == 20_000


def test_usage_has_the_spans_that_it_always_had(books: Books, server: Mongod) -> None:
    books.live(10)
    books.sync.push()
    assert set(base(server).usage.distinct("span")) == {"hour", "day", "period"}

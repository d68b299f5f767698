"""Documents that other programs wrote into the book are reported, and concern only their own VM."""

from __future__ import annotations

import pytest
from bson.int64 import Int64

from tests.support.bookkeeper import MARCH, Books, base
from tests.support.mongod import Mongod

pytestmark = [pytest.mark.mongo, pytest.mark.usefixtures("impatient")]


def test_a_date_beyond_the_year_9999_affects_one_vm_only(books: Books, server: Mongod) -> None:
    books.sync.push()
    vms = base(server).vms
    # BSON's dates reach further than Python's; JavaScript's last date is in the year +275760.
    pipeline = [{"$set": {"lifted_until": {"$toDate": 8_640_000_000_000_000}}}]
    vms.update_one({"_id": "web1"}, pipeline)
    vms.update_one({"_id": "web2"}, {"$set": {"limit_bytes": Int64(7)}})
    books.live(1)
    books.sync.push()
    assert books.ledger.vms()[books.vms[2]].limit_bytes == 7
    assert [fault for fault in books.sync.faults if "web1" in fault]
    assert books.agrees(base(server))


def test_impossible_usage_of_another_host_is_not_counted(books: Books, server: Mongod) -> None:
    books.sync.push()
    nonsense = {"host": "dom0-b", "vm": "web1", "span": "period", "start": MARCH, "in_bytes": "many"}
    base(server).usage.insert_one(nonsense)
    books.live(1)
    books.sync.push()
    base(server).usage.delete_one({"host": "dom0-b"})
    assert books.agrees(base(server))


def test_a_very_long_text_is_reported_shortened(books: Books, server: Mongod) -> None:
    books.sync.push()
    base(server).vms.update_one({"_id": "web1"}, {"$set": {"limit_bytes": "x" * 10_000, "y" * 10_000: 1}})
    books.sync.push()
    assert len(books.sync.faults) == 2
    assert all(len(fault) < 400 for fault in books.sync.faults)


def test_an_edit_made_here_replaces_an_invalid_value_in_the_book(books: Books, server: Mongod) -> None:
    books.sync.push()
    base(server).vms.update_one({"_id": "web1"}, {"$set": {"unlimited": False}})
    books.sync.push()
    books.ledger.set_vm(books.vms[1], unlimited=True)
    books.sync.push()
    assert base(server).vms.find_one({"_id": "web1"})["unlimited"] is True

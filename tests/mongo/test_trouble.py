"""A book that falls behind, as the daemon tells of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.bookkeeper import Books
from tests.support.lookout import Lookout
from tests.support.mongod import Mongod
from tests.support.pace import until

pytestmark = [pytest.mark.mongo, pytest.mark.usefixtures("impatient")]


def test_a_server_that_hangs_for_longer_than_an_hour_is_told_once_and_once_when_it_goes_on(
    tmp_path: Path, server: Mongod
) -> None:
    books = Books(tmp_path, server.uri, interval=0.5)
    books.live(1)
    books.sync.start()
    assert until(lambda: books.sync.behind() == timedelta() and books.sync.current_at is not None)
    host = Lookout(books.ledger, books.settings, books.clock)
    host.sync = books.sync
    server.hang()
    books.live(58)
    host.go(60)
    assert until(lambda: books.sync.problem is not None, 20)
    assert host.events() == []
    host.go(3600)
    ((kind, text),) = host.events()
    assert (kind, text) == ("trouble", f"the book is behind for 61 min: {books.sync.problem}")
    server.resume()
    assert until(lambda: books.sync.problem is None, 60)
    host.go(120)
    assert host.events()[1:] == [("trouble-over", f"no longer: {text}")]
    books.sync.stop()
    books.ledger.close()

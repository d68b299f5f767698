"""The book: pushing a day's backlog, the cost of keeping up, and whether a dead book slows the loop."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.rig import Rig
from tests.support.bookkeeper import Books
from tests.support.mongod import Mongod

_VIFS = 100
_TURNS = 3


def measure() -> list[Figure]:
    return [*_pushes(), *_loop()]


def _pushes() -> list[Figure]:
    with Mongod() as server, tempfile.TemporaryDirectory() as folder:
        books = Books(Path(folder), server.uri, vifs=_VIFS)
        books.live(24 * 60)
        begin = time.monotonic()
        books.sync.push()
        replay = time.monotonic() - begin
        costs = []
        for _ in range(10):
            books.live(1)
            cpu = time.process_time()
            books.sync.push()
            costs.append(time.process_time() - cpu)
        books.ledger.close()
    share = statistics.median(costs) / books.settings.mongodb.interval * 100
    return [
        Figure(f"24 h of {_VIFS} vifs pushed to an empty book", replay, "s", 30),
        Figure(f"keeping up with {_VIFS} vifs, of one core", share, "%", 1),
    ]


def _loop() -> list[Figure]:
    rounds: dict[str, list[float]] = {"without": [], "dead": []}
    with Rig() as rig:
        rig.grow(_VIFS)
        for _ in range(_TURNS):
            for how, samples in rounds.items():
                samples.extend(rig.measured("benchmarks.bookloop", how))
    alone, dead = (statistics.median(rounds[how]) * 1000 for how in ("without", "dead"))
    return [
        Figure("a round of the loop with the book dead, wall", dead, "ms", alone * 1.1, ("one without a book", alone)),
    ]

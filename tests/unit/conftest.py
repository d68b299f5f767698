"""Fixtures of the unit tests: a ledger, a command line, with or without a daemon that answers it, and files to read.
hypothesis has no deadline for an example, because a machine may be busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import hypothesis
import pytest

from tests.support.books import open_ledger
from tests.support.console import Console, StandIn
from xenbw.ledger.ledger import Ledger

hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A new ledger, `ledger.db` in the test's directory."""
    with closing(open_ledger(tmp_path)) as opened:
        yield opened


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write a file under the test's directory and return its path."""

    def write(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


@pytest.fixture
def daemon(console: Console) -> Iterator[StandIn]:
    with StandIn(console) as running:
        yield running

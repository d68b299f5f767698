"""What the unit tests share. No example of a property has to be fast, for a machine may be busy. A command line comes
with a daemon that answers it, or without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.console import Console, StandIn

hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


@pytest.fixture
def daemon(console: Console) -> Iterator[StandIn]:
    with StandIn(console) as running:
        yield running

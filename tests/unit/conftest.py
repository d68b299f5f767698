"""Fixtures of the unit tests: a command line, with or without a daemon that answers it. hypothesis has no deadline for
an example, because a machine may be busy."""

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

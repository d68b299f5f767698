"""Fixtures of the kernel tests: a miniature dom0 with xenbw installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.host import Host


@pytest.fixture
def host() -> Iterator[Host]:
    """xenbw is installed, its daemon does not run."""
    with Host() as machine:
        yield machine


@pytest.fixture
def running(host: Host) -> Host:
    """xenbw is installed, its daemon runs."""
    host.start_daemon()
    return host

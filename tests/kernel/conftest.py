"""What the kernel tests share: a miniature dom0 with xenbw in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.host import Host


@pytest.fixture
def host() -> Iterator[Host]:
    """xenbw installed, its daemon not running."""
    with Host() as machine:
        yield machine


@pytest.fixture
def running(host: Host) -> Host:
    """xenbw installed, its daemon running."""
    host.start_daemon()
    return host

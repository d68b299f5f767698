"""Fixtures of the package's tests, which run only in the container that tests/deb/container boots."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from tests.deb import package
from tests.deb.machine import Machine
from tests.support.pace import within


def pytest_ignore_collect() -> bool | None:
    # These tests install, break and purge the package on the machine that they run on.
    return None if os.environ.get("XENBW_TESTBED") else True


@contextlib.contextmanager
def _leaving_nothing() -> Iterator[None]:
    assert package.state() == ""
    before = package.snapshot()
    yield
    package.run("dpkg", "--purge", "xenbw")
    # systemd forgets removed units with a delay.
    within(lambda: package.snapshot() == before, 20)
    after = package.snapshot()
    assert {what: sorted(set(before[what]) ^ set(left)) for what, left in after.items() if left != before[what]} == {}


@pytest.fixture
def clean() -> Iterator[None]:
    """A machine that has never had the package. After the test, a purge must leave no trace of it."""
    with _leaving_nothing():
        yield


@pytest.fixture
def installed(clean: None) -> None:
    """The machine with the package just installed."""
    package.apt("install", package.built())


@pytest.fixture(scope="module")
def untouched() -> Iterator[None]:
    """The installed package, shared by tests that change nothing."""
    with _leaving_nothing():
        package.apt("install", package.built())
        yield


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A dom0 with a bridge and a host outside, and no guests yet."""
    with Machine() as dom0:
        yield dom0

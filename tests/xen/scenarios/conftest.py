"""What the scenarios share: the package in dom0, br_netfilter as the README advises, and two guests that stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from rig import guest, package, park, shell
from rig.guest import Guest
from rig.park import Pair


@pytest.fixture(scope="session", autouse=True)
def bridge_netfilter() -> None:
    """As the README advises. Without it iptables does not see what a bridge forwards; one module switches it off."""
    shell.run("modprobe", "br_netfilter")
    Path("/etc/modules-load.d/br_netfilter.conf").write_text("br_netfilter\n")


@pytest.fixture(scope="module", autouse=True)
def xenbw() -> None:
    """The package under test, installed and running."""
    if package.which() != package.CURRENT:
        package.install(package.CURRENT)


@pytest.fixture(scope="module")
def pair(xenbw: None) -> Pair:
    """web1 and db1, running and known. They are left to the next module as it should find them."""
    guests = Pair(park.web(), park.db())
    guest.create(*(each for each in (guests.web, guests.db) if each.domid is None))
    return guests


@pytest.fixture
def web(pair: Pair) -> Guest:
    """The one that the scenarios are about."""
    return pair.web


@pytest.fixture
def db(pair: Pair) -> Guest:
    """The one in good standing."""
    return pair.db

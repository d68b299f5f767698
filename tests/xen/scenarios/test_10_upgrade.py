"""The package is upgraded while guests run and traffic flows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rig import outside, package
from rig.guest import Guest
from rig.outside import Frame
from rig.pace import until
from rig.park import Pair

_LOAD = "while wget -q -O /dev/null http://10.77.0.1/1M; do sleep 0.5; done >/dev/null 2>&1 & echo $! >/tmp/load"
_END_LOAD = "kill $(cat /tmp/load); killall wget"


@pytest.fixture(scope="module", autouse=True)
def xenbw() -> None:
    """The previous package, instead of the package under test."""
    package.install(package.PREVIOUS)


@dataclass(frozen=True)
class Upgrade:
    """The result of the upgrade: packets of a blocked guest that the host outside received meanwhile."""

    of_the_blocked: list[Frame]


@pytest.fixture(scope="module", autouse=True)
def upgrade(xenbw: None, pair: Pair) -> Iterator[Upgrade]:
    """web1 fetches file after file and db1, blocked, pings the host outside, while the package is upgraded."""
    package.xenbw("block", "db1")
    web = pair.web
    web.run(_LOAD)
    pair.db.run("ping -i 0.2 10.77.0.2 >/dev/null 2>&1 & ping -i 0.2 fd77::2 >/dev/null 2>&1 &")
    try:
        assert until(lambda: web.counters().in_bytes > 2_000_000)
        since = outside.mark()
        package.install(package.CURRENT)
        yield Upgrade(outside.packets(since, pair.db))
        package.xenbw("lift", "db1")
    finally:
        web.run(_END_LOAD)
        pair.db.run("killall ping")


def test_no_byte_is_lost_in_an_upgrade(web: Guest) -> None:
    web.run(_END_LOAD)
    package.settled(web)


def test_a_blocked_guest_gets_no_packet_through_in_an_upgrade(upgrade: Upgrade, db: Guest) -> None:
    assert upgrade.of_the_blocked == []
    assert db.silent("10.77.0.2", "fd77::2")


def test_the_admins_settings_survive_an_upgrade() -> None:
    assert {name: vm["state"] for name, vm in package.listing().items()} == {"web1": "unlimited", "db1": "blocked"}


def test_the_new_version_of_the_daemon_runs() -> None:
    assert package.status()["daemon"]["version"] in package.xenbw("--version")

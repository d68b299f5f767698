"""The package is removed, and installed again."""

from __future__ import annotations

import pytest

from rig import package
from rig.guest import Guest
from rig.park import Pair

_EVERYWHERE = ("10.77.0.1", "10.77.0.2", "fd77::2")


@pytest.fixture(scope="module", autouse=True)
def removed(pair: Pair) -> None:
    """web1 was over its allowance when the package was removed."""
    package.send_over("web1")
    assert pair.web.silent(*_EVERYWHERE)
    package.remove()


def test_a_blocked_guest_is_released_when_the_package_is_removed(web: Guest) -> None:
    assert web.pings(*_EVERYWHERE)


def test_a_guest_starts_with_the_hook_that_stays_as_a_conffile(db: Guest) -> None:
    db.destroy()
    db.create()
    assert db.pings("10.77.0.2")


def test_apt_installs_the_package_again_without_a_network_and_its_ledger_is_kept(web: Guest) -> None:
    package.install_with_apt()
    assert web.silent(*_EVERYWHERE)
    package.release("web1")
    assert web.pings("10.77.0.2")

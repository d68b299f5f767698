"""The whole story on a machine with the package installed; the package is removed at the end."""

from __future__ import annotations

from tests.deb import package
from tests.deb.machine import Machine
from tests.support.pace import until


def test_a_guest_goes_over_is_null_routed_and_is_released_by_removing_the_package(machine: Machine) -> None:
    web = machine.start("web1", ("10.50.0.11", "fd50::11"))
    assert web.reaches("10.50.0.2")
    machine.add("web1", "1MB")
    machine.push_over(web, ("10.50.0.11", "fd50::11"))
    assert not web.ping("10.50.0.2")
    assert not web.ping("fd50::2")
    web.reboot()
    assert web.send(100_000) == 0
    package.run("dpkg", "--remove", "xenbw")
    assert until(lambda: web.ping("10.50.0.2") and web.ping("fd50::2"))
    assert not any("XENBW" in rule for rule in package.rules())

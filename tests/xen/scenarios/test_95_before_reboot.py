"""The last steps before dom0 is rebooted. Their results are tested in after_reboot/."""

from __future__ import annotations

from rig import package, park
from rig.park import Pair


def test_guests_are_left_to_xendomains(pair: Pair) -> None:
    """All three guests start with dom0. web1, over its allowance, runs when dom0 shuts down, so it is saved and
    restored. shop, over its allowance as well, does not run, so it is started. db1 is in good standing."""
    shop = park.shop()
    shop.create()
    pair.web.run("ping -i 0.2 10.77.0.2 >/dev/null 2>&1 & ping -i 0.2 fd77::2 >/dev/null 2>&1 &")
    for guest in (pair.web, shop):
        package.send_over(guest.name)
        assert guest.silent("10.77.0.1", "10.77.0.2", "fd77::2")
    shop.destroy()
    for guest in (pair.web, pair.db, shop):
        guest.start_with_dom0()

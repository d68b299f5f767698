"""Null routes in nft, on a kernel that can reject in the bridge family."""

from __future__ import annotations

import re

from rig import package, shell
from rig.guest import Guest
from rig.pace import until

_OUTSIDE = "10.77.0.2"


def _null_routed(name: str, *command: str) -> bool:
    """Whether the output of a command that lists null routes names the VM; none are listed where there are none."""
    return name in shell.run(*command, check=False)


def test_null_routes_move_to_nft_with_a_reject_for_bridges_and_back(web: Guest) -> None:
    legacy, sets = ("iptables-legacy", "-S", "XENBW"), ("nft", "list", "table", "bridge", "xenbw-null")
    package.send_over("web1")
    assert until(lambda: _null_routed("web1", *legacy))
    with package.configured('[enforce]\nnull_routes = "nft"\n'):
        assert until(lambda: shell.status(*sets) == 0 and _null_routed("web1", *sets))
        assert until(lambda: not _null_routed("web1", *legacy))
        # nft may leave out the kind of a reject where it is the usual one.
        refuse = re.search(r"chain refuse \{\s+(.*)", shell.run(*sets))
        assert refuse is not None
        assert refuse[1].startswith("reject")
        assert shell.run("nft", "list", "table", "inet", "xenbw-null") != ""
        with package.daemon_asleep():
            # Without the seal and the drop by tc, which refuse the frames before.
            shell.run("nft", "delete", "table", "netdev", "xenbw")
            package.raise_links()
            assert web.silent(_OUTSIDE, "fd77::2")
    assert until(lambda: _null_routed("web1", *legacy))
    assert until(lambda: shell.status(*sets) != 0)
    package.release("web1")
    assert web.pings(_OUTSIDE)

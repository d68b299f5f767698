"""Many guests at once that do nothing: vifs on the bridge and their nodes in xenstore, without a namespace for each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.support.dom0 import BRIDGE, Dom0
from tests.support.guest import Card, Guest
from tests.support.netns import Namespace


@contextlib.contextmanager
def crowd(dom0: Dom0, count: int) -> Iterator[list[str]]:
    """Inside, so many more guests run. Yields their names. No hook tells of them; the daemon finds them by itself."""
    place, names = Namespace(), [f"quiet{number}" for number in range(count)]
    try:
        links: list[str] = []
        nodes: dict[str, str] = {}
        for number, name in enumerate(names):
            mac = f"00:16:3e:60:{number // 256:02x}:{number % 256:02x}"
            card = Card(0, mac, (), (), BRIDGE, None, "vif-bridge")
            guest = Guest(dom0, name, f"00000000-0000-4000-8000-{number:012d}", [card])
            guest.domid = dom0.take_domid(None)
            nodes |= guest.nodes(connected=True)
            vif, own = f"vif{guest.domid}.0", f"q{number}"
            links += [
                f"link add {vif} type veth peer name {own} address {mac} netns {place.path}",
                f"link set {vif} addrgenmode none master {BRIDGE} up",
            ]
        dom0.store.write_all(nodes)
        dom0.namespace.ip(*links)
        place.ip(*(f"link set q{number} addrgenmode none up" for number in range(count)))
        yield names
    finally:
        place.close()

"""How much of its rate one TCP stream of a throttled VM gets, each way, with segmentation offload."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

from benchmarks.figure import Figure
from benchmarks.rig import Rig
from tests.support.dom0 import OUTSIDE_ADDRESSES
from tests.support.netns import Namespace
from tests.support.traffic import stream
from xenbw.blocks.block import Line, Wanted
from xenbw.blocks.throttle import Throttle
from xenbw.blocks.tripwire import Tripwire
from xenbw.nft.chains import Chains
from xenbw.nft.pipe import hand_to_nft
from xenbw.nft.port import Port
from xenbw.nft.quotas import Quotas
from xenbw.nft.tables import Tables

_MBIT = 1_000_000
_RATES = (1, 10, 100)  # Mbit/s
_LEAST, _MOST = 0.85, 1.15  # of the rate
_EVER = datetime.min.replace(tzinfo=UTC)
# At first a second's worth of the rate and the burst pass at once.
_WARM_UP, _SECONDS = 4.0, 8.0


def measure() -> list[Figure]:
    figures: list[Figure] = []
    with Rig() as rig:
        guest = rig.start("web1")
        with rig.namespace.entered():
            port = Port(guest.domid, 0, socket.if_nametoindex(guest.interface), guest.interface, guest.cards[0].mac)
        ways = {
            "from": partial(stream, guest.namespace, rig.outside, OUTSIDE_ADDRESSES[4]),
            "to": partial(stream, rig.outside, guest.namespace, guest.address()),
        }
        for rate in _RATES:
            for way, send in ways.items():
                # Another VM id is another limit object, of which nothing was used yet.
                vm_id, bits = len(figures) + 1, rate * _MBIT
                throttle(rig.namespace, [port._replace(throttle=(vm_id, bits, bits), vm_id=vm_id)])
                got = send(_SECONDS, _WARM_UP) * 8 / _MBIT
                what = f"one TCP stream {way} a VM throttled to {rate} Mbit/s"
                figures.append(Figure(what, got, "Mbit/s", _MOST * rate, ("the rate", rate), _LEAST * rate))
    return figures


def throttle(dom0: Namespace, ports: Iterable[Port]) -> None:
    """Throttle these vifs to the rates that they name, as if their VMs had used up their allowances."""
    held = tuple(ports)
    past = tuple(Line(vm_id, "slow", "total", None, 0, _EVER) for port in held if (vm_id := port.vm_id) is not None)
    wanted = Wanted(ports=held, lines=past)
    with dom0.entered(), closing(Tables(hand_to_nft)) as tables:
        chains = Chains(tables)
        for block in (Tripwire(tables, chains, Quotas(tables)), Throttle(tables, chains)):
            if problems := block.apply(wanted).problems:
                raise RuntimeError(f"not throttled: {problems}")

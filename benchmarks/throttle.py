"""How much of its rate one TCP stream of a throttled VM gets, each way, with segmentation offload."""

from __future__ import annotations

import socket
from contextlib import closing
from functools import partial

from benchmarks.figure import Figure
from benchmarks.rig import Rig
from tests.support.dom0 import OUTSIDE_ADDRESSES
from tests.support.traffic import stream
from xenbw.blocks.block import Wanted
from xenbw.blocks.throttle import Throttle
from xenbw.nft.chains import Chains
from xenbw.nft.pipe import hand_to_nft
from xenbw.nft.port import Port
from xenbw.nft.tables import Tables

_MBIT = 1_000_000
_RATES = (1, 10, 100)  # Mbit/s
_TARGET = 0.85  # of the rate
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
                _throttle(rig, port, len(figures) + 1, rate * _MBIT)
                got = send(_SECONDS, _WARM_UP) * 8 / _MBIT
                what = f"one TCP stream {way} a VM throttled to {rate} Mbit/s"
                figures.append(Figure(what, got, "Mbit/s", None, ("the rate", rate), _TARGET * rate))
    return figures


def _throttle(rig: Rig, port: Port, vm_id: int, rate: int) -> None:
    with rig.namespace.entered(), closing(Tables(hand_to_nft)) as tables:
        throttled = port._replace(throttle=(vm_id, rate, rate))
        outcome = Throttle(tables, Chains(tables)).apply(Wanted(ports=(throttled,)))
    if outcome.problems:
        raise RuntimeError(f"not throttled: {outcome.problems}")

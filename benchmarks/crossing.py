"""How long a VM that goes over its allowance still gets packets through, at default settings, on a host of 1000 VMs."""

from __future__ import annotations

import random
import socket
import statistics
import time
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.rig import Rig
from tests.support.dom0 import OUTSIDE_ADDRESSES
from tests.support.guest import Guest
from tests.support.pace import until

_GUESTS = 10
_TARGET = 2.0
_INTERVAL = 1.0  # seconds; [meter] interval's default
_LIMIT = 200_000
_PAYLOAD = 1400
_FRAME = _PAYLOAD + 8 + 20 + 14  # with its UDP, IPv4 and Ethernet headers
_PAUSE = 0.002
_SILENCE = 0.3


def measure() -> list[Figure]:
    with Rig() as rig:
        with rig.namespace.entered():
            # Without br_netfilter a null route does not stop a bridged guest.
            Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")
        rig.grow(1000)
        rig.start_daemon()
        seconds = [_cross(rig, rig.start(f"guest{n}")) for n in range(_GUESTS)]
    peer = ("the meter's interval", _INTERVAL)
    return [
        Figure("allowance used up to first packet rejected, median", statistics.median(seconds), "s", _TARGET, peer),
        Figure(f"the same, worst of {_GUESTS}", max(seconds), "s", _TARGET, peer),
    ]


def _cross(rig: Rig, guest: Guest) -> float:
    """Let the guest send until nothing arrives any more. Returns the seconds from the packet that used up its allowance
    to the first one that was rejected."""
    rig.allow(guest.name, _LIMIT)
    if not until(lambda: bool(rig.ask("status")["interfaces"] >= rig.fleet + len(rig.guests))):
        raise RuntimeError(f"xenbwd does not count {guest.name}")
    time.sleep(_INTERVAL * (1 + random.random()))  # at a random point of the daemon's round
    sent, arrived = _send_until_silence(rig, guest)
    full = -(-_LIMIT // _FRAME) - 1
    return sent[arrived] - sent[full]


def _send_until_silence(rig: Rig, guest: Guest) -> tuple[list[float], int]:
    """When each packet was sent, and how many of them arrived: the first ones, and none of the rest."""
    with rig.outside.entered():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with guest.namespace.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sent: list[float] = []
    arrived = 0
    with receiver, sender:
        receiver.bind((OUTSIDE_ADDRESSES[4], 0))
        receiver.setblocking(False)
        while not sent or sent[-1] - sent[min(arrived, len(sent) - 1)] < _SILENCE:
            sent.append(time.monotonic())
            sender.sendto(bytes(_PAYLOAD), receiver.getsockname())
            time.sleep(_PAUSE)
            arrived += _drain(receiver)
    return sent, arrived


def _drain(receiver: socket.socket) -> int:
    count = 0
    while True:
        try:
            receiver.recv(_PAYLOAD)
        except BlockingIOError:
            return count
        count += 1

"""How exactly a VM is held to its allowance, and how soon it is blocked, at default settings, on a host of 1000 VMs."""

from __future__ import annotations

import ctypes
import os
import random
import socket
import statistics
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.rig import Rig
from tests.support.dom0 import OUTSIDE_ADDRESSES
from tests.support.guest import Guest
from tests.support.netns import Namespace
from tests.support.pace import until
from xenbw.ledger import usagelog

_GUESTS = 10
_TARGET = 50.0
_INTERVAL = 1.0  # seconds; [meter] interval's default
_LIMIT = 200_000
_PAYLOAD = 1400
_FRAME = _PAYLOAD + 8 + 20 + 14  # with its UDP, IPv4 and Ethernet headers
_PAUSE = 0.002
_LOOK = 0.001
_SILENCE = 0.3


def measure() -> list[Figure]:
    with Rig() as rig:
        with rig.namespace.entered():
            # Without br_netfilter a null route does not stop a bridged guest.
            Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")
        rig.grow(1000)
        rig.start_daemon()
        guests = [rig.start(f"guest{n}") for n in range(_GUESTS)]
        crossings = [_cross(rig, guest) for guest in guests]
    over, short, seconds = zip(*crossings, strict=True)
    return [
        Figure("bytes past the allowance, worst", max(over), "B", 0),
        Figure("bytes short of it, worst", max(short), "B", _FRAME),
        Figure("frame refused up to null route standing, median", 1000 * statistics.median(seconds), "ms", _TARGET),
        Figure(f"the same, worst of {_GUESTS}", 1000 * max(seconds), "ms", None),
    ]


def _cross(rig: Rig, guest: Guest) -> tuple[int, int, float]:
    """Let the guest send until nothing arrives any more. Returns the bytes past its allowance, the bytes short of it,
    and the seconds from the first packet that did not arrive to the null route."""
    rig.allow(guest.name, _LIMIT)
    rig.ask("sync")
    if not until(lambda: bool(rig.ask("status")["interfaces"] >= rig.fleet + len(rig.guests))):
        raise RuntimeError(f"xenbwd does not count {guest.name}")
    time.sleep(_INTERVAL * (1 + random.random()))  # at a random point of the daemon's round
    with closing(_Filter(rig.namespace)) as table, ThreadPoolExecutor() as pool:
        blocked = pool.submit(_await_more_rules, table, table.rules())
        sent, arrived = _send_until_silence(rig, guest)
        at = blocked.result()
    if f" {guest.address()}/32 " not in rig.run(["iptables-legacy-save", "-t", "filter"], check=True).stdout:
        raise RuntimeError(f"the new rules are not the null route of {guest.name}")
    rig.ask("commit")
    vm = rig.ledger.vm_named(guest.name)
    used = sum(usagelog.present(rig.ledger)[vm.id]) if vm else 0
    return max(0, used - _LIMIT), max(0, _LIMIT - used), at - sent[arrived]


class _Filter:
    """The legacy table `filter` of IPv4, asked by the process itself: to start iptables takes longer than to block a
    VM, and `iptables -S` takes the lock that the daemon needs."""

    # linux/netfilter_ipv4/ip_tables.h: IPT_SO_GET_INFO, struct ipt_getinfo.
    _GET_INFO, _INFO, _NUMBER = 64, struct.Struct("=32s11III"), 12

    def __init__(self, place: Namespace) -> None:
        with place.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._ask = ctypes.CDLL(None, use_errno=True).getsockopt

    def close(self) -> None:
        self._socket.close()

    def rules(self) -> int:
        """How many rules all its chains have."""
        info = ctypes.create_string_buffer(b"filter", self._INFO.size)
        size = ctypes.byref(ctypes.c_uint(self._INFO.size))
        if self._ask(self._socket.fileno(), socket.IPPROTO_IP, self._GET_INFO, info, size):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return int(self._INFO.unpack(info)[self._NUMBER])


def _await_more_rules(table: _Filter, rules: int) -> float:
    """When the table got more rules than so many."""
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if table.rules() > rules:
            return time.monotonic()
        time.sleep(_LOOK)
    raise RuntimeError("no null route")


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

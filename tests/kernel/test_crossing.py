"""A VM is found over its allowance while another VM is being sealed: neither passes traffic at any moment."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.dom0 import OUTSIDE_ADDRESSES
from tests.support.effort import cases
from tests.support.guest import Guest
from tests.support.host import Host
from tests.support.pace import until
from tests.support.story import LIMIT
from xenbw.nft.netlink import _attributes, _each

pytestmark = pytest.mark.kernel

_NETFILTER, _SO_RCVBUFFORCE = 12, 33  # linux/netlink.h, asm-generic/socket.h
_NEWSETELEM, _NEWGEN = 12, 15
OUTSIDE = OUTSIDE_ADDRESSES[4]
_ROUNDS = cases(5, 200)


@contextmanager
def held_up(host: Host) -> Iterator[None]:
    """The daemon is stopped meanwhile, and afterwards gets all events at once."""
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGSTOP)
    yield
    host.daemon.send_signal(signal.SIGCONT)


@contextmanager
def hearing_rules(host: Host) -> Iterator[socket.socket]:
    """The kernel's news of nft's rules. (`nft monitor` of version 1.0.6 crashes at elements that are patterns.)"""
    with host.namespace.entered():
        news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
    with news:
        news.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 24)
        news.bind((0, 1 << 6))  # NFNLGRP_NFTABLES
        news.setblocking(False)
        yield news


@contextmanager
def listening(host: Host, *argv: str) -> Iterator[Path]:
    """A program that writes the kernel's netlink news to a file."""
    output = host.directory / f"{argv[0]}.heard"
    program = host.popen(argv, output=output)
    # Wait until it has subscribed.
    assert until(lambda: _netlink(program))
    yield output
    program.terminate()
    program.wait()


def _netlink(program: subprocess.Popen[bytes]) -> bool:
    try:
        table = Path(f"/proc/{program.pid}/net/netlink").read_text().splitlines()[1:]
    except OSError:
        return False
    return any(int(line.split()[2]) == program.pid and int(line.split()[3], 16) for line in table)


def index_of(host: Host, guest: Guest) -> int:
    return int(host.run(["cat", f"/sys/class/net/{guest.interface}/ifindex"], check=True).stdout)


def test_the_blocked_vms_link_stays_down_and_its_seal_stays(running: Host) -> None:
    first, second = running.start("web1"), running.start("web2")
    for guest in (first, second):
        running.add(guest.name, limit_bytes=LIMIT)
    running.ask("sync")
    index = index_of(running, second)
    with (
        hearing_rules(running) as rules,
        listening(running, "ip", "-o", "monitor", "link") as links,
    ):
        with held_up(running):
            # Its traffic is found only by the kernel's counters, when chains are repaired to seal the first VM.
            for way in ("in", "out"):
                chain = f"v{second.domid}.0.{index}-{way}"
                running.run(["nft", "flush", "chain", "netdev", "xenbw", chain], check=True)
            for guest in (first, second):
                assert guest.send(LIMIT) > 0
        assert until(lambda: running.blocked(first.address()) and running.blocked(second.address()))
        assert until(lambda: not running.link_is_up(second))
        running.ask("sync")
        # Once this news arrives, all earlier news has arrived.
        running.namespace.ip("link add last type bridge")
        assert until(lambda: "last" in links.read_text())
        sealed, up = _seals(rules, index), _links(links, second)
    for held, free in ((sealed, False), (up, True)):
        assert (not free) in held
        assert free not in held[held.index(not free) :]


def test_flushed_rules_let_no_traffic_past_a_block_in_many_rounds(running: Host) -> None:
    guests = [running.start("web1"), running.start("web2")]
    index = index_of(running, guests[1])
    for _ in range(_ROUNDS):
        for guest in guests:
            running.add(guest.name, limit_bytes=sum(running.usage(guest.name)) + LIMIT)
        running.ask("sync")
        assert until(lambda: all(running.link_is_up(guest) and guest.reaches(OUTSIDE) for guest in guests))
        with held_up(running):
            # The daemon finds the second VM over while it seals the first.
            for way in ("in", "out"):
                chain = f"v{guests[1].domid}.0.{index}-{way}"
                running.run(["nft", "flush", "chain", "netdev", "xenbw", chain], check=True)
            assert all(guest.send(LIMIT) > 0 for guest in guests)
        assert until(lambda: all(running.blocked(one.address()) and not running.link_is_up(one) for one in guests))
        running.run(["nft", "flush", "ruleset"], check=True)
        assert [guest.send(10_000, timeout=0.05) for guest in guests] == [0, 0]
        running.ask("sync")
        for guest in guests:
            running.raise_links(guest)
        assert [guest.send(10_000, timeout=0.05) for guest in guests] == [0, 0]


def _seals(rules: socket.socket, index: int) -> list[bool]:
    """Whether the vif with this ifindex was sealed, after each change of the rules."""
    found, now, key = [], False, index.to_bytes(4, sys.byteorder)
    for kind, words in _news(rules):
        if kind == _NEWGEN:
            found.append(now)
        # Attributes of linux/netfilter/nf_tables.h: a set's name (2) and elements (3); of each its key (1).
        elif words.get(2) == b"sealed\0" and any(key in element for element in _each(words.get(3, b""))):
            now = kind == _NEWSETELEM
    return found


def _news(rules: socket.socket) -> Iterator[tuple[int, dict[int, bytes]]]:
    """The kernel's news that have arrived: the number of each in linux/netfilter/nf_tables.h, and its attributes."""
    with suppress(BlockingIOError):
        while True:
            data, at = rules.recv(1 << 20), 0
            while at < len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                yield kind & 0xFF, _attributes(data, at + 20, at + length)
                at += (length + 3) & ~3


def _links(links: Path, guest: Guest) -> list[bool]:
    """Whether the guest's link was up, in each of the kernel's news of it."""
    lines = [line for line in links.read_text().splitlines() if f" {guest.interface}@" in line]
    return ["UP" in line.split("<")[1].split(">")[0].split(",") for line in lines]

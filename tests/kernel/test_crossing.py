"""A VM is found over its allowance while another VM is being sealed: neither passes traffic at any moment."""

from __future__ import annotations

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
    """Whether a program has a netlink socket that hears news of the kernel."""
    try:
        table = Path(f"/proc/{program.pid}/net/netlink").read_text().splitlines()[1:]
        opened = {str(file.readlink()) for file in Path(f"/proc/{program.pid}/fd").iterdir()}
    except OSError:
        return False
    sockets = (line.split() for line in table)
    return any(f"socket:[{words[9]}]" in opened and int(words[3], 16) for words in sockets)


def index_of(host: Host, guest: Guest) -> int:
    return int(host.run(["cat", f"/sys/class/net/{guest.interface}/ifindex"], check=True).stdout)


def test_the_blocked_vms_drop_by_tc_stays_and_its_seal_stays(running: Host) -> None:
    first, second = running.start("web1"), running.start("web2")
    for guest in (first, second):
        running.add(guest.name, limit_bytes=LIMIT)
    running.ask("sync")
    index = index_of(running, second)
    with (
        hearing_rules(running) as rules,
        listening(running, "tc", "monitor") as filters,
    ):
        with running.held_up():
            # Its traffic is found only by the kernel's counters, when chains are repaired to seal the first VM.
            for way in ("in", "out"):
                chain = f"v{second.domid}.0.{index}-{way}"
                running.run(["nft", "flush", "chain", "netdev", "xenbw", chain], check=True)
            for guest in (first, second):
                assert guest.send(LIMIT) > 0
        assert until(lambda: running.blocked(first.address()) and running.blocked(second.address()))
        assert until(lambda: running.drops(second.interface))
        running.ask("sync")
        # Once this news arrives, all earlier news has arrived.
        running.namespace.ip("link add last type bridge")
        running.run(["tc", "qdisc", "add", "dev", "last", "clsact"], check=True)
        assert until(lambda: "dev last" in filters.read_text())
        sealed, dropped = _seals(rules, index), _drops(filters, second)
    assert len(dropped) == 2  # one filter for each direction
    for held in (sealed, dropped):
        assert True in held
        assert False not in held[held.index(True) :]


def test_flushed_rules_let_no_traffic_past_a_block_in_many_rounds(running: Host) -> None:
    guests = [running.start("web1"), running.start("web2")]
    index = index_of(running, guests[1])
    for _ in range(_ROUNDS):
        for guest in guests:
            running.add(guest.name, limit_bytes=sum(running.usage(guest.name)) + LIMIT)
        running.ask("sync")
        assert until(lambda: all(guest.reaches(OUTSIDE) for guest in guests))
        with running.held_up():
            # The daemon finds the second VM over while it seals the first.
            for way in ("in", "out"):
                chain = f"v{guests[1].domid}.0.{index}-{way}"
                running.run(["nft", "flush", "chain", "netdev", "xenbw", chain], check=True)
            assert all(guest.send(LIMIT) > 0 for guest in guests)
        assert until(lambda: all(running.blocked(one.address()) and running.drops(one.interface) for one in guests))
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


def _drops(filters: Path, guest: Guest) -> list[bool]:
    """Whether a filter of ours was added to the guest's vif, in each of the kernel's news of such filters."""
    lines = [line for line in filters.read_text().splitlines() if f"dev {guest.interface} " in line]
    return [not line.startswith("deleted") for line in lines if "handle 0x7862" in line]

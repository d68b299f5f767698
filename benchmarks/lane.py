"""Two guests on a bridge and nothing else, to measure the cost of one packet between them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from benchmarks.blaster import BATCH, Blaster, udp
from tests.support.netns import Namespace
from xenbw.nft.port import Port

_NANOSECONDS = 1e9
_NOBODY = "10.9.0.77"  # the guest at the other end drops packets for this foreign address


class Lane:
    """A bridge between two guests, in namespaces of its own. others: how many more interfaces dom0 has, off the bridge.

    `dom0` is where the bridge is; `ports` are the two guests' interfaces there, and `others` the rest.
    """

    def __init__(self, others: int = 0) -> None:
        self._others = others
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        with self._exit:
            self._set_up()
            self._exit = self._exit.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _set_up(self) -> None:
        self.dom0, *self._guests = (self._namespace() for _ in range(3))
        spare = range(3, 3 + self._others)
        self.dom0.ip(
            "link add br0 type bridge",
            "link set br0 up",
            *(f"link add vif{n}.0 type veth peer name peer{n}" for n in spare),
            *(
                f"link add vif{n}.0 type veth peer name eth0 address {_mac(n)} netns {guest.path}"
                for n, guest in enumerate(self._guests, 1)
            ),
            "link set vif1.0 master br0 up",
            "link set vif2.0 master br0 up",
        )
        for n, guest in enumerate(self._guests, 1):
            guest.ip(f"addr add 10.9.0.{n}/24 dev eth0", "link set eth0 up")
        with self.dom0.entered():
            ifindexes = {name: ifindex for ifindex, name in socket.if_nameindex()}
        self.ports, self.others = (
            [Port(n, 0, ifindexes[f"vif{n}.0"], f"vif{n}.0", _mac(n)) for n in numbers] for numbers in ((1, 2), spare)
        )
        there, back = udp(_mac(2), _mac(1), _NOBODY, "10.9.0.1"), udp(_mac(1), _mac(2), _NOBODY, "10.9.0.2")
        self.filter_bridged(on=False)
        self._blaster = self._exit.enter_context(Blaster(self._guests[0], "eth0", there))
        self._await_forwarding()
        with Blaster(self._guests[1], "eth0", back) as other:
            other.send()  # the bridge learns where the second guest is

    def _namespace(self) -> Namespace:
        place = Namespace()
        self._exit.callback(place.close)
        with place.entered():
            # IPv6's own packets when a card comes up would be measured too.
            Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        return place

    def _await_forwarding(self) -> None:
        """Wait for the link: the kernel looks at new links at most once a second (linux net/core/link_watch.c)."""
        limit = time.monotonic() + 10
        while time.monotonic() < limit:
            before = self._arrived()
            self._blaster.send()
            if self._arrived() - before >= BATCH:
                return
            time.sleep(0.05)
        raise RuntimeError("the bridge does not forward")

    def filter_bridged(self, *, on: bool) -> None:
        """Set whether iptables sees the bridge's packets, as with br_netfilter loaded or not."""
        with self.dom0.entered():
            Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text(str(int(on)))

    def run(self, batches: int) -> float:
        """Send that many batches from the first guest to the second. Returns the nanoseconds of one packet, from the
        first guest's card to the second's IP stack."""
        before, begin = self._arrived(), time.perf_counter()
        for _ in range(batches):
            self._blaster.send()
        seconds = time.perf_counter() - begin
        sent, arrived = batches * BATCH, self._arrived() - before
        if arrived < sent:
            raise RuntimeError(f"of {sent} packets {arrived} arrived")
        return seconds / sent * _NANOSECONDS

    def _arrived(self) -> int:
        """Packets that the second guest's card has received."""
        with self._guests[1].entered():
            lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        return next(int(line.split(":")[1].split()[1]) for line in lines if line.strip().startswith("eth0:"))


def addresses(count: int) -> Iterable[str]:
    """That many addresses that neither guest has."""
    return (f"10.60.{n >> 8}.{n & 255}" for n in range(count))


def _mac(n: int) -> str:
    return f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}"

"""An HVM guest's emulated card: a tap device, which this process holds open in place of QEMU."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterable
from typing import Self

from tests.support.dom0 import BRIDGE, OUTSIDE_ADDRESSES
from tests.support.frames import frame
from tests.support.guest import ETH_HLEN, ScriptResult
from tests.support.host import Host
from tests.support.netns import Namespace
from tests.support.pace import within
from xenbw.model import ZERO, Counters

# linux/if_tun.h; a struct ifreq with the flags in it.
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_REQUEST = struct.Struct("16sH22x")
FRAME = 1000  # bytes of a frame that a test sends
_OUTSIDE = OUTSIDE_ADDRESSES[4]


class Tap:
    """A tap device that exists while it is open. counted: the bytes written to it and read from it, as dom0 counts
    them: bytes from the guest without their Ethernet headers."""

    def __init__(self, place: Namespace, interface: str) -> None:
        with place.entered():
            self._file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self._file, _TUNSETIFF, _REQUEST.pack(os.fsencode(interface), _IFF_TAP | _IFF_NO_PI))
        self.counted = ZERO

    def write(self, frames: Iterable[bytes]) -> None:
        """Send frames from the guest. A tap that is down accepts none, which QEMU ignores too (net/tap.c)."""
        for one in frames:
            try:
                os.write(self._file, one)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
            else:
                self.counted = self.counted.plus(Counters(0, len(one) - ETH_HLEN))

    def read(self) -> list[bytes]:
        """The frames to the guest since the last call."""
        found: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(os.read(self._file, 1 << 17))
                self.counted = self.counted.plus(Counters(len(found[-1]), 0))
        return found

    def close(self) -> None:
        """Close the tap; the kernel removes the device before this returns. dom0 has counted the frames that were still
        in it."""
        if self._file >= 0:
            self.read()
            os.close(self._file)
        self._file = -1


class Hvm:
    """A running HVM guest with one card: `guest` is it with its vif, `tap` its emulated card. scripts: the runs of the
    vif script for the tap.

    There is no IPv6 around it: a tap is open before its hook is called, while no guest runs, and what neighbours say of
    themselves then goes to nobody. So nothing comes to it but what a test sends.
    """

    def __init__(self, host: Host, name: str = "web1", *, vifname: str | None = None) -> None:
        self._host, self.scripts = host, list[ScriptResult]()
        host.namespace.lose_ipv6()
        host.outside.lose_ipv6()
        domid = host.take_domid(None)
        self.tap = self._open(domid)
        self.guest = host.start(name, domid=domid, vifname=vifname)
        self._add()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tap.close()

    @property
    def interface(self) -> str:
        """The tap's name in dom0."""
        return f"{self.guest.interface}-emu"

    @property
    def request(self) -> bytes:
        """A frame from the guest to the host outside."""
        return frame(self._outside, self.guest.cards[0].mac, bytes(FRAME - ETH_HLEN))

    @property
    def answer(self) -> bytes:
        """A frame from the host outside to the guest."""
        return frame(self.guest.cards[0].mac, self._outside, bytes(FRAME - ETH_HLEN))

    def total(self) -> Counters:
        """The bytes that have passed both cards in this life."""
        self.tap.read()
        return self.guest.counters().plus(self.tap.counted)

    def restart(self) -> None:
        """Shut down and start again, under a new domid."""
        self.tap.close()
        # libxl calls this script after the vif's; here it runs before, because xenstore must still have the vif.
        self._run_script("remove")
        self.guest.stop()
        domid = self._host.take_domid(None)
        self.tap = self._open(domid)
        self.guest.start(domid)
        self._add()

    def replug(self) -> None:
        """Remove the card's tap and add it again, on the bridge and up, without running a script."""
        self.tap.close()
        self.tap = Tap(self._host.namespace, self.interface)
        self._host.namespace.ip(f"link set {self.interface} master {BRIDGE} up")

    def _open(self, domid: int) -> Tap:
        """Create the tap, as QEMU does before libxl handles the cards."""
        return Tap(self._host.namespace, f"vif{domid}.0-emu")

    def _add(self) -> None:
        self.guest.namespace.lose_ipv6()
        self._run_script("add")
        # Let the bridge learn where the host outside is, or it floods frames for that host to every card.
        assert self._host.run(["ping", "-n", "-q", "-c", "1", _OUTSIDE]).returncode == 0
        self._outside = self._host.run(["ip", "-br", "neigh", "show", _OUTSIDE], check=True).stdout.split()[2]
        state = f"/sys/class/net/{self.interface}/brport/state"
        # Wait a moment for the link, but do not require it: a link that a hook set down stays down.
        within(lambda: self._host.run(["cat", state]).stdout == "3\n", 1.2)

    def _run_script(self, command: str) -> None:
        self.scripts.append(self._host.run_script(command, self.guest.domid, self.guest.cards[0], "tap"))

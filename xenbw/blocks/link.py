"""Links of blocked VMs' vifs are down where no drop by tc can be had (blocks/drop.py): no flush of rules undoes that
either, even with the daemon dead.

Only ports of a Linux bridge are taken down: a routed vif would lose its routes. A mark in the run folder names each
link that was taken down here, and only those are raised again. The guest is not told: its frames wait in its ring, and
its shutdown may wait for them.

The hook uses this at each boot of a VM, so it imports next to nothing.
"""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct

from xenbw.text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from xenbw.blocks.block import Outcome, Wanted

UNDO = """\
for interface in /sys/class/net/*; do
    ifindex=$(cat "$interface/ifindex" 2>/dev/null) || continue
    [ ! -e "$1/lowered/$ifindex" ] || ip link set dev "${interface##*/}" up || true
done
rm -rf "$1"/lowered"""
"""Shell commands that raise all links that xenbw took down. $1: xenbw's folder under /run."""

_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h
_REQUEST = struct.Struct("16sH22x")  # struct ifreq


class Link:
    """The links that xenbw took down. run_dir: xenbw's folder under /run, where the marks are."""

    name = "link"

    def __init__(self, run_dir: str) -> None:
        self._marks = f"{run_dir}/lowered"

    def probe(self) -> str | None:
        """None: every kernel can take a link down."""
        return None

    def apply(self, wanted: Wanted) -> Outcome:
        """Take the wanted links down, and raise those that xenbw took down and no block wants down any more."""
        from xenbw.blocks.block import Outcome  # the hook, which only lowers links, cannot afford dataclasses

        failed = []
        for ifindex in self.lowered() - wanted.shut.keys() - wanted.starting:
            try:
                self._raise(ifindex)
            except OSError as error:
                failed.append(f"interface {ifindex}: its link cannot be raised again: {error.strerror}")
        for ifindex, interface in wanted.shut.items():
            try:
                if decode(os.fsencode(_name(ifindex) or "")) == interface:
                    self.lower(ifindex)
            except OSError as error:
                failed.append(f"{interface}: its link cannot be taken down: {error.strerror}")
        return Outcome(problems=tuple(failed), shut=frozenset(self.lowered()))

    def lower(self, ifindex: int) -> None:
        """Take a vif's link down, if the vif is a bridge port and up. Raises OSError."""
        name = _name(ifindex)
        if name is None or not os.path.exists(f"/sys/class/net/{name}/brport") or not _flags(name) & _UP:
            return
        os.makedirs(self._marks, exist_ok=True)
        os.close(os.open(f"{self._marks}/{ifindex}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        _ask(_SET_FLAGS, name, _flags(name) & ~_UP)

    def _raise(self, ifindex: int) -> None:
        name = _name(ifindex)
        if name is not None:
            _ask(_SET_FLAGS, name, _flags(name) | _UP)
        os.unlink(f"{self._marks}/{ifindex}")

    def lowered(self) -> set[int]:
        """The ifindexes of the vifs whose links xenbw took down."""
        try:
            return {int(mark) for mark in os.listdir(self._marks) if mark.isdecimal()}
        except OSError:
            return set()


def _name(ifindex: int) -> str | None:
    """The interface's present name, or None if it is gone."""
    try:
        return _socket.if_indextoname(ifindex)
    except OSError:
        return None


def _flags(name: str) -> int:
    return int(_REQUEST.unpack(_ask(_GET_FLAGS, name, 0))[1])


def _ask(request: int, name: str, flags: int) -> bytes:
    """An ioctl about an interface's flags; an interface that is gone has none. Raises OSError."""
    asker = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        return fcntl.ioctl(asker.fileno(), request, _REQUEST.pack(os.fsencode(name), flags))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return bytes(_REQUEST.size)
    finally:
        asker.close()

"""Drop all packets of an interface in the kernel's traffic control. By rtnetlink this does what two commands do,
`tc qdisc add dev X clsact` and, for each direction,
`tc filter add dev X ingress prio 1 handle 0x7862 bpf da bytecode '1,6 0 0 2'`.

The filter is one instruction of classic BPF, which returns TC_ACT_SHOT. It needs no compiler, and no module but
sch_ingress and cls_bpf. Filters of other programs stay behind ours: 1 is the first priority, and cls_bpf puts a new
filter ahead of the others of its priority (linux net/sched/cls_bpf.c, cls_bpf_change). A filter is known as ours by its
priority, handle and instruction; the kernel keeps no name of a classic BPF filter.

The hook uses this at each boot of a blocked VM, so it imports next to nothing.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PRIORITY, HANDLE = 1, 0x7862  # "xb"

# linux/netlink.h
_REQUEST, _ACK, _ECHO, _DUMP, _EXCL, _CREATE = 0x001, 0x004, 0x008, 0x300, 0x200, 0x400
_ERROR, _DONE = 2, 3
# linux/rtnetlink.h
_NEW_QDISC, _DEL_QDISC, _GET_QDISC = 36, 37, 38
_NEW_FILTER, _DEL_FILTER, _GET_FILTER = 44, 45, 46
_KIND, _OPTIONS, _CHAIN = 1, 2, 11
# linux/pkt_sched.h: the place of clsact, its only handle, and its two directions.
_PLACE, _QDISC, _WAYS = 0xFFFFFFF1, 0xFFFF0000, (0xFFFFFFF2, 0xFFFFFFF3)
# linux/pkt_cls.h: TCA_BPF_OPS_LEN, TCA_BPF_OPS, TCA_BPF_FLAGS.
_OPS_LEN, _OPS, _FLAGS = 4, 5, 8
_INFO = PRIORITY << 16 | _socket.htons(0x0003)  # ETH_P_ALL, linux/if_ether.h
_DROP = struct.pack("=HBBI", 6, 0, 0, 2)  # BPF_RET | BPF_K, TC_ACT_SHOT
_HEADER, _MESSAGE, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BxxxiIII"), struct.Struct("=HH")
_STATUS = struct.Struct("=i")
_TYPE = 0x3FFF  # without the flags "nested" and "network byte order"
_LARGEST = 1 << 16


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


_CLSACT, _BPF = _attribute(_KIND, b"clsact\0"), _attribute(_KIND, b"bpf\0")
_DIRECTLY = struct.pack("=I", 1)  # TCA_BPF_FLAG_ACT_DIRECT
_PROGRAM = _attribute(
    _OPTIONS,
    _attribute(_OPS_LEN, struct.pack("=H", 1)) + _attribute(_OPS, _DROP) + _attribute(_FLAGS, _DIRECTLY),
)


class Clsact:
    """A socket to the kernel's traffic control. Interfaces are given by ifindex. Each method raises OSError."""

    def __init__(self) -> None:
        kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC
        self._socket = _socket.socket(_socket.AF_NETLINK, kind, 0)  # NETLINK_ROUTE

    def close(self) -> None:
        self._socket.close()

    def stands(self, ifindex: int) -> bool:
        """Whether an interface has our filter in both directions, each ahead of all others."""
        return all(self._first(ifindex, way) for way in _WAYS)

    def add(self, ifindex: int) -> bool:
        """Drop all packets of an interface, and return whether that made its clsact. If it fails, no filter of ours is
        left."""
        made = self._make(ifindex)
        try:
            for way in _WAYS:
                self._put(ifindex, way, alone=made)
        except OSError:
            self.remove(ifindex, made=made)
            raise
        return made

    def remove(self, ifindex: int, *, made: bool) -> None:
        """Remove our filters from an interface. made: whether xenbw made its clsact, which is then removed too, unless
        another program has filters there. An interface that is gone is no error."""
        try:
            left = False
            for way in _WAYS:
                found = list(self._filters(ifindex, way))
                if any(ours for _, ours in found):
                    self._tell(_DEL_FILTER, 0, (ifindex, HANDLE, way, _INFO), _BPF)
                left = left or any(not ours for _, ours in found)
            if made and not left and self._kind(ifindex) == b"clsact":
                self._tell(_DEL_QDISC, 0, (ifindex, _QDISC, _PLACE, 0), _CLSACT)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def has_ours(self, ifindex: int) -> bool:
        """Whether an interface has our filter in one direction at least, first or not."""
        return any(ours for way in _WAYS for _, ours in self._filters(ifindex, way))

    def _make(self, ifindex: int) -> bool:
        """Make a clsact; whether there was none."""
        try:
            self._tell(_NEW_QDISC, _CREATE | _EXCL, (ifindex, _QDISC, _PLACE, 0), _CLSACT)
        except OSError as error:
            if error.errno != errno.EEXIST:
                raise
            # The qdisc `ingress` has the same place. It would accept our filter for egress, and use it at ingress.
            if self._kind(ifindex) != b"clsact":
                raise
            return False
        return True

    def _put(self, ifindex: int, way: int, *, alone: bool) -> None:
        """Have our filter first in one direction. alone: whether no other filter can be there."""
        if not alone:
            if self._first(ifindex, way):
                return
            if any(ours for _, ours in self._filters(ifindex, way)):
                self._tell(_DEL_FILTER, 0, (ifindex, HANDLE, way, _INFO), _BPF)
        self._tell(_NEW_FILTER, _CREATE | _EXCL, (ifindex, HANDLE, way, _INFO), _BPF + _PROGRAM)
        if not (alone or self._first(ifindex, way)):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _first(self, ifindex: int, way: int) -> bool:
        """Whether our filter is the first in one direction. Only chain 0 sees packets by itself."""
        return next((ours for chain, ours in self._filters(ifindex, way) if chain == 0), False)

    def _kind(self, ifindex: int) -> bytes | None:
        """The qdisc in the place of clsact, or None."""
        try:
            found = list(self._ask(_GET_QDISC, _ECHO, (ifindex, 0, _PLACE, 0)))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        return _attributes(found[0][1]).get(_KIND, b"").rstrip(b"\0") if found else None

    def _filters(self, ifindex: int, way: int) -> Iterator[tuple[int, bool]]:
        """(chain, whether it is ours) of each filter in one direction, in the order in which they see packets."""
        for (_, _, handle, _, info), data in list(self._ask(_GET_FILTER, _DUMP, (ifindex, 0, way, 0))):
            found = _attributes(data)
            chain = int.from_bytes(found.get(_CHAIN, b""), sys.byteorder)
            options = _attributes(found.get(_OPTIONS, b""))
            what = (handle, info, found.get(_KIND), options.get(_OPS), options.get(_FLAGS))
            ours = what == (HANDLE, _INFO, b"bpf\0", _DROP, _DIRECTLY)
            # Ahead of its filters a priority is listed without a handle. Of other kinds that may be all there is.
            if handle or found.get(_KIND) != b"bpf\0":
                yield chain, ours

    def _tell(self, kind: int, flags: int, what: tuple[int, int, int, int], more: bytes) -> None:
        for _ in self._ask(kind, flags, what, more):
            pass

    def _ask(
        self, kind: int, flags: int, what: tuple[int, int, int, int], more: bytes = b""
    ) -> Iterator[tuple[tuple[int, ...], bytes]]:
        """The struct tcmsg and the attributes of each answer. what: ifindex, handle, parent, info."""
        body = _MESSAGE.pack(0, *what) + more
        # If there is no qdisc the kernel may send no answer, but it always sends the acknowledgement.
        flags |= _REQUEST if flags & _DUMP == _DUMP else _REQUEST | _ACK
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        while True:
            answer, at = self._socket.recv(_LARGEST), 0
            while at < len(answer):
                length, told, _, _, _ = _HEADER.unpack_from(answer, at)
                data = answer[at + _HEADER.size : at + length]
                at += (length + 3) & ~3
                if told in (_ERROR, _DONE):
                    (status,) = _STATUS.unpack_from(data.ljust(_STATUS.size, b"\0"))
                    if status:
                        raise OSError(-status, os.strerror(-status))
                    return
                yield _MESSAGE.unpack_from(data), data[_MESSAGE.size :]


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            break
        found[kind & _TYPE] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found

"""Reading our nft table by netlink, and learning that another program changed the rules.

By netlink itself (linux/netfilter/nf_tables.h) 5000 counters take 7 ms of processor time; by libnftables, which reads
the whole ruleset first and writes it as JSON, they take 35.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from xenbw.errors import MeterError
from xenbw.nft.library import Library
from xenbw.nft.objects import Chain, Quota
from xenbw.text import decode

_NETLINK_NETFILTER = 12
_GROUP = 7  # NFNLGRP_NFTABLES
_SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GETCHAIN, _GETRULE, _GETSETELEM = _SUBSYSTEM | 4, _SUBSYSTEM | 7, _SUBSYSTEM | 13
_NEWGEN, _GETGEN, _NEWOBJ, _GETOBJ = _SUBSYSTEM | 15, _SUBSYSTEM | 16, _SUBSYSTEM | 18, _SUBSYSTEM | 19
NETDEV = 5  # NFPROTO_NETDEV
_REQUEST, _ACK, _DUMP = 0x001, 0x004, 0x301  # linux/netlink.h; the last is NLM_F_REQUEST, NLM_F_ROOT, NLM_F_MATCH
_ERROR, _DONE = 2, 3
_COUNTER, _QUOTA, _LIMIT = 1, 2, 4  # NFT_OBJECT_COUNTER, NFT_OBJECT_QUOTA, NFT_OBJECT_LIMIT
_TABLE = 1  # the same number in messages about objects, chains, rules and sets
_OBJ_NAME, _OBJ_TYPE, _OBJ_DATA = 2, 3, 4
_QUOTA_FLAGS, _DEPLETED = 2, 2  # the second is NFT_QUOTA_F_DEPLETED
_CHAIN_NAME, _CHAIN_HOOK, _HOOK_DEVICE = 3, 4, 3
_RULE_CHAIN, _RULE_EXPRESSIONS = 2, 4
_SET_NAME, _SET_ELEMENTS, _ELEMENT_KEY, _ELEMENT_OBJECT, _DATA_VALUE = 2, 3, 1, 9, 1
_ELEMENT_EXPIRATION = 5  # milliseconds
_ELEMENT_USERDATA, _COMMENT = 6, 0  # the second is NFTNL_UDATA_SET_ELEM_COMMENT, libnftnl/udata.h
_GEN_ID, _GEN_PID = 1, 2
_TYPE = 0x3FFF  # without the flags "nested" and "network byte order"
_HEADER, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=HH")
_TWO_LONGS = struct.Struct(">Q4xQ")  # with the second one's header in between
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: the table changed under the dump
_BUFFER, _TRIES = 1 << 16, 10

_Value = TypeVar("_Value")
_Take = Callable[[bytes, int, int], None]
"""take(data, begin, end): read the attributes of one message."""


class NetfilterError(MeterError):
    """The kernel's nf_tables answered with an error, or not at all."""


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(data), kind) + data + bytes(-len(data) % 4)


class Table:
    """One table in the kernel. family: its number in linux/netfilter.h. packets: of each counter, by name, at the last
    `counters`."""

    def __init__(self, name: str, family: int = NETDEV) -> None:
        self._table, self._family = name.encode("ascii") + b"\0", family
        self.packets: dict[str, int] = {}
        self._socket: socket.socket | None = None

    def generation(self) -> int:
        """A number that changes with each change of the host's rules, in any table. Raises NetfilterError."""
        found: list[bytes] = []
        body = struct.pack("=BBH", 0, 0, 0)
        request = _HEADER.pack(16 + len(body), _GETGEN, _REQUEST | _ACK, 0, 0) + body
        self._ask(request, lambda data, at, end: found.append(_attributes(data, at, end)[_GEN_ID]))
        if not found:
            raise NetfilterError("nf_tables tells no generation of its rules", "is the kernel built with nf_tables?")
        return int.from_bytes(found[0], "big")

    def counters(self, names: Iterable[str] | None = None) -> dict[str, int]:
        """Counter's name -> bytes; empty without the table. names: read only these; a few take 0.1 ms. Raises
        NetfilterError."""
        found: dict[str, int] = {}
        packets: dict[str, int] = {}
        # A counter that is gone by the second attempt has its packets still, and nobody asks for them.

        def take(data: bytes, at: int, end: int) -> None:
            name, found[name], packets[name] = _pair(data, at, end)

        self._objects(_COUNTER, names, found.clear, take)
        self.packets = packets
        return found

    def quotas(self, names: Iterable[str] | None = None) -> dict[str, Quota]:
        """Quota object's name -> its state; empty without the table. names: read only these. Raises NetfilterError."""
        found: dict[str, Quota] = {}

        def take(data: bytes, at: int, end: int) -> None:
            name, limit, consumed = _pair(data, at, end)
            found[name] = Quota(limit, consumed)

        self._objects(_QUOTA, names, found.clear, take)
        return found

    def limits(self) -> frozenset[str]:
        """The names of its limit objects; none without the table. Raises NetfilterError."""
        found: set[str] = set()
        self._objects(
            _LIMIT, None, found.clear, lambda data, at, end: found.add(_text(_attributes(data, at, end)[_OBJ_NAME]))
        )
        return frozenset(found)

    def chains(self) -> dict[str, Chain]:
        """The table's chains by name. Raises NetfilterError."""
        devices: dict[str, str] = {}
        rules: dict[str, tuple[int, ...]] = {}

        def take_chain(data: bytes, at: int, end: int) -> None:
            words = _attributes(data, at, end)
            # A dump of chains has those of all tables, whatever table was asked for.
            if words[_TABLE] == self._table:
                hook = words.get(_CHAIN_HOOK, b"")
                devices[_text(words[_CHAIN_NAME])] = _text(_attributes(hook).get(_HOOK_DEVICE, b""))

        def take_rule(data: bytes, at: int, end: int) -> None:
            words = _attributes(data, at, end, _RULE_EXPRESSIONS)
            chain = _text(words[_RULE_CHAIN])
            rules[chain] = (*rules.get(chain, ()), hash(words.get(_RULE_EXPRESSIONS)))

        self._dump(_GETCHAIN, b"", devices.clear, take_chain)
        self._dump(_GETRULE, b"", rules.clear, take_rule)
        return {name: Chain(device, rules.get(name, ())) for name, device in devices.items()}

    def elements(self, name: str) -> frozenset[bytes]:
        """The keys of a set's elements; empty without the set. Raises NetfilterError."""
        return frozenset(self.objects(name))

    def left(self, name: str) -> dict[bytes, float]:
        """A set's elements: key -> after how many seconds the kernel removes it, 0 for never. Raises NetfilterError."""
        return self._elements(name, lambda words: int.from_bytes(words.get(_ELEMENT_EXPIRATION, b""), "big") / 1000)

    def objects(self, name: str) -> dict[bytes, str]:
        """A map's elements: key -> name of the object it leads to; empty without the map. Raises NetfilterError."""
        return self._elements(name, lambda words: _text(words.get(_ELEMENT_OBJECT, b"")))

    def comments(self, name: str) -> dict[bytes, str]:
        """A set's elements: key -> comment, "" for none; empty without the set. Raises NetfilterError."""
        return self._elements(name, lambda words: _comment(words.get(_ELEMENT_USERDATA, b"")))

    def _elements(self, name: str, value: Callable[[dict[int, bytes]], _Value]) -> dict[bytes, _Value]:
        """The elements of a set or map, by their keys; value: what is read of an element's attributes."""
        found: dict[bytes, _Value] = {}

        def take(data: bytes, at: int, end: int) -> None:
            for element in _each(_attributes(data, at, end).get(_SET_ELEMENTS, b"")):
                words = _attributes(element)
                if _ELEMENT_KEY in words:  # a set's catch-all element has no key
                    found[_attributes(words[_ELEMENT_KEY])[_DATA_VALUE]] = value(words)

        self._dump(_GETSETELEM, _attribute(_SET_NAME, name.encode("ascii") + b"\0"), found.clear, take)
        return found

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _objects(self, kind: int, names: Iterable[str] | None, again: Callable[[], None], take: _Take) -> None:
        """Read all objects of a kind as they were at one moment, or one after the other those with these names."""
        wanted = _attribute(_OBJ_TYPE, struct.pack(">I", kind))
        if names is None:
            self._dump(_GETOBJ, wanted, again, take)
        for name in names or ():
            named = _attribute(_OBJ_NAME, name.encode("ascii", errors="replace") + b"\0")
            self._ask(self._request(_GETOBJ, _REQUEST | _ACK, wanted + named), take)

    def _request(self, what: int, flags: int, wanted: bytes) -> bytes:
        body = struct.pack("=BBH", self._family, 0, 0) + _attribute(_TABLE, self._table) + wanted
        return _HEADER.pack(16 + len(body), what, flags, 0, 0) + body

    def _dump(self, what: int, wanted: bytes, again: Callable[[], None], take: _Take) -> None:
        """Read all things of one kind as they were at one moment. `again` is called before each attempt."""
        request = self._request(what, _DUMP, wanted)
        for _ in range(_TRIES):
            again()
            if self._ask(request, take):
                return
        raise NetfilterError("nf_tables: the ruleset changes all the time", "xenbw tries again shortly")

    def _ask(self, request: bytes, take: _Take) -> bool:
        """Whether the answer was whole; "no such table" is a whole answer. Raises NetfilterError."""
        try:
            return self._answered(request, take)
        except OSError as error:
            self.close()
            if error.errno == errno.ENOENT:
                return True
            raise NetfilterError(f"nf_tables: {error.strerror}", "is the kernel built with nf_tables?") from None
        except NetfilterError:
            self.close()  # or the rest of this answer would be taken for that to the next question
            raise

    def _answered(self, request: bytes, take: _Take) -> bool:
        """Whether the answer was whole: it is not if the ruleset changed meanwhile."""
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._socket.settimeout(1.0)
        self._socket.send(request)
        whole = True
        while True:
            data = self._socket.recv(_BUFFER)
            at = 0
            while at < len(data):
                length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
                whole = whole and not flags & _INTERRUPTED
                if kind == _DONE:
                    return whole
                if kind == _ERROR:
                    (code,) = struct.unpack_from("=i", data, at + 16)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return whole
                take(data, at + 20, at + length)
                at += (length + 3) & ~3


def _each(data: bytes) -> Iterator[bytes]:
    """The contents of each attribute in a list."""
    at = 0
    while at < len(data):
        length, _ = _ATTRIBUTE.unpack_from(data, at)
        yield data[at + 4 : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes, at: int = 0, end: int | None = None, last: int = 0) -> dict[int, bytes]:
    """Attributes by kind; reading stops after the kind `last`."""
    found = {}
    end = len(data) if end is None else end
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        kind &= _TYPE
        found[kind] = data[at + 4 : at + length]
        if kind == last:
            break
        at += (length + 3) & ~3
    return found


def _text(word: bytes) -> str:
    return decode(word.rstrip(b"\0"))


def _comment(userdata: bytes) -> str:
    """The comment in what nft(8) keeps beside an element: pieces with a byte for their kind and one for their length
    (libnftnl, udata.c)."""
    at = 0
    while at + 2 <= len(userdata):
        kind, length = userdata[at], userdata[at + 1]
        if kind == _COMMENT:
            return _text(userdata[at + 2 : at + 2 + length])
        at += 2 + length
    return ""


def _pair(data: bytes, at: int, end: int) -> tuple[str, int, int]:
    """Name and numbers of a counter (bytes, packets) or a quota object (limit, consumption), from its message; fast,
    since it runs for each of them each second. The name comes first, then the numbers in that order (nf_tables_api.c,
    nf_tables_fill_obj_info; nft_counter.c, nft_counter_do_dump; nft_quota.c, nft_quota_do_dump)."""
    name = ""
    while at < end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        kind &= _TYPE
        if kind == _OBJ_NAME:
            name = data[at + 4 : at + length - 1].decode("ascii", errors="replace")
        elif kind == _OBJ_DATA:
            return (name, *_TWO_LONGS.unpack_from(data, at + 8))
        at += (length + 3) & ~3
    raise NetfilterError(f"nf_tables tells nothing of its object {name!r}", "report it to the xenbw project")


def _spent_quota(data: bytes, at: int, end: int) -> Iterator[str]:
    """The name of the quota object that ran out, if the message of an object tells of one: the kernel sends it at that
    moment (nft_quota.c, nft_quota_obj_eval)."""
    words = _attributes(data, at, end)
    if int.from_bytes(words.get(_OBJ_TYPE, b""), "big") == _QUOTA:
        flags = int.from_bytes(_attributes(words.get(_OBJ_DATA, b"")).get(_QUOTA_FLAGS, b""), "big")
        if flags & _DEPLETED:
            yield _text(words.get(_OBJ_NAME, b""))


class RuleWatch:
    """Tells when another program changed the nftables ruleset, in any table, and when a tripwire ran out. Our own
    changes go through `apply`. spent: the names of quota objects that ran out since this was last emptied."""

    def __init__(self) -> None:
        self.spent: set[str] = set()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER)
        self._socket.bind((0, 1 << (_GROUP - 1)))
        self._library, self._own = Library(), set[int]()

    def apply(self, text: str) -> str | None:
        """Change the rules without `drain` telling of it. None if that worked, else nft's error."""
        # The kernel's news names the thread that made a change.
        self._own.add(threading.get_native_id())
        return self._library.apply(text)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def drain(self) -> bool:
        """Read all waiting news. Whether another program changed a rule."""
        changed = False
        while True:
            try:
                data = self._socket.recv(_BUFFER)
            except BlockingIOError:
                self._own.clear()
                return changed
            except OSError:
                changed = True  # messages were lost (ENOBUFS); one may have been another program's change
                continue
            changed = self._of_others(data) or changed

    def _of_others(self, data: bytes) -> bool:
        # Each commit ends with a message that names the process (net/netfilter/nf_tables_api.c, nf_tables_gen_notify).
        at, found = 0, False
        while at < len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if kind == _NEWOBJ:
                self.spent.update(_spent_quota(data, at + 20, at + length))
            if kind == _NEWGEN:
                pid = _attributes(data, at + 20, at + length).get(_GEN_PID)
                found = found or (pid is not None and int.from_bytes(pid, "big") not in self._own)
            at += max(4, (length + 3) & ~3)
        return found

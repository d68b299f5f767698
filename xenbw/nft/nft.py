"""The chains and counters on guests' interfaces, as text for nft(8).

Each interface has two chains of the netdev family, which see a packet before any bridge, router or firewall does (out:
ingress hook) or after all of them (in: egress hook). They jump to chains that all share, where maps lead from the
interface to its named counters, which the kernel keeps when the interface goes and its own counters are lost: one more
interface is a few elements, and a packet costs the same with one interface as with a thousand.

The hook pays for every import at each boot of a VM, so this imports next to nothing.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

TABLE = "xenbw"
# Ahead of whatever an admin hangs there at the usual 0, whose drops then count like those of any firewall.
_PRIORITY = -300
# A counter's name is its interface's key and one of these words, which are those of the maps as well.
PASSED, _REFUSED = ("in", "out", "flood"), ("refused-in", "refused-out")
WHAT = PASSED + _REFUSED
WAYS = ("in", "out")
# What a blocked guest may all the same has a chain in either direction, where a verdict map leads from its interface.
_ALLOWED = {"in": ("allowed-in", "oif", "saddr"), "out": ("allowed-out", "iif", "daddr")}
# What it takes to find those addresses, and no more of it, or it would carry what is not allowed: ARP, and of RFC 4861
# what stays on the link.
_SPARINGLY = "meta length <= 128 limit rate 20/second burst 40 packets"
FINDING = {
    "ip": {"in": "meta protocol arp", "out": "meta protocol arp"},
    "ip6": {
        "in": "ip6 hoplimit 255 icmpv6 type { 134, 135, 136 }",
        "out": "ip6 daddr { fe80::/10, ff02::/16 } icmpv6 type { 133, 135, 136 }",
    },
}
# Bytes of an Ethernet frame, as nft's raw expressions count bits. `ether daddr` would look at the type of the incoming
# interface first, which a packet that leaves has none of; `arp saddr` is of another type than the set's.
_DESTINATION, _SOURCE, _ARP_SENDER = "@ll,0,48", "@ll,48,48", "@ll,176,48"


def key(domid: int, devid: int, ifindex: int) -> str:
    """An interface's name in the table. An ifindex is not given twice in one boot, as names and devids are."""
    return f"v{domid}.{devid}.{ifindex}"


def life_of(name: str) -> tuple[int, int, int] | None:
    """(domid, devid, ifindex) of a key, or None for any other word."""
    words = name.removeprefix("v").split(".")
    if not name.startswith("v") or len(words) != 3 or not all(map(str.isdecimal, words)):
        return None
    return (int(words[0]), int(words[1]), int(words[2]))


def can_name(interface: str) -> bool:
    """Whether nft can be told of an interface of that name: its strings know no escapes, and `*` is a pattern."""
    return interface.isascii() and interface.isprintable() and not set(interface) & set('"*\\')


# Nothing passes a sealed interface but what is allowed to its guest. Of the others all that comes from the guest is its
# usage, and what goes to it if it is for an address of its own, or for many (the lowest bit of the first byte, IEEE
# 802). Who sends by other addresses may be reached by them: what is not for it cannot be told then, and all of it
# counts.
_TO_GUEST = (
    "oif @sealed jump sealed-in",
    f"oif . {_DESTINATION} @own counter name oif map @in return",
    "@ll,7,1 1 counter name oif map @in return",
    "oif @foreign counter name oif map @in return",
    "counter name oif map @flood",
)
_FROM_GUEST = (
    "iif @sealed jump sealed-out",
    "iif @foreign counter name iif map @out return",
    f"iif . {_SOURCE} != @own add @foreign {{ iif }}",
    f"meta protocol arp iif . {_ARP_SENDER} != @own add @foreign {{ iif }}",
    "meta protocol 8021q add @foreign { iif }",
    "meta protocol 8021ad add @foreign { iif }",
    "icmpv6 type 133-137 jump neighbours",
    "counter name iif map @out",
)
# RFC 4861: an address is told to others in an option of type 1 or 2; a nonce (14, RFC 3971) stands alone where the
# sender has no address yet. The options of a router solicitation (133) follow sooner than those of the others.
_NEIGHBOURS = (
    "icmpv6 type 134 add @foreign { iif }",
    "icmpv6 type 137 add @foreign { iif }",
    "icmpv6 type 133 @th,64,8 1 iif . @th,80,48 != @own add @foreign { iif }",
    "icmpv6 type 133 @th,64,8 != 1 add @foreign { iif }",
    "icmpv6 type 135-136 @th,192,8 1-2 iif . @th,208,48 != @own add @foreign { iif }",
    "icmpv6 type 135-136 @th,192,8 != 1-2 @th,192,8 != 14 add @foreign { iif }",
    "icmpv6 type 135-136 @th,192,8 14 @th,256,8 != 0 add @foreign { iif }",
)
# The drop stands alone: a rule ends where a map has no element for the interface.
_SEALED = {
    f"sealed-{way}": (f"{interface} vmap @{where}", f"counter name {interface} map @refused-{way}", "drop")
    for way, (where, interface, _) in _ALLOWED.items()
}
# None of them looks into a set without a name: how they stand in the kernel does not change when they are made again.
SHARED = {"to-guest": _TO_GUEST, "from-guest": _FROM_GUEST, "neighbours": _NEIGHBOURS, **_SEALED}
"""The rules of the chains that all interfaces share."""


def foundation() -> str:
    """Text for what all interfaces share: put there, or made what it should be."""
    lines = [
        f"add table netdev {TABLE}",
        f"add set netdev {TABLE} sealed {{ type iface_index; }}",
        f"add set netdev {TABLE} own {{ typeof oif . {_DESTINATION}; }}",
        f"add set netdev {TABLE} foreign {{ type iface_index; flags dynamic; size 65535; }}",
        *(f"add map netdev {TABLE} {what} {{ type iface_index : counter; }}" for what in WHAT),
        *(f"add map netdev {TABLE} {where} {{ type iface_index : verdict; }}" for where, _, _ in _ALLOWED.values()),
    ]
    for verb in ("add", "flush"):
        lines += [f"{verb} chain netdev {TABLE} {chain}" for chain in SHARED]
    for chain, rules in SHARED.items():
        lines += [f"add rule netdev {TABLE} {chain} {rule}" for rule in rules]
    return "\n".join([*lines, ""])


def cover(domid: int, devid: int, ifindex: int, interface: str, mac: str | None) -> str:
    """Text that puts chains and counters on the interface, upon the foundation. Done twice it changes nothing. mac: as
    Xen gave it; without one nobody can tell what is not for the guest."""
    name, own = key(domid, devid, ifindex), _number(mac)
    lines = _counters([(name, ifindex)], PASSED)
    lines.append(_element(*(("own", f"{ifindex} . {own}") if own else ("foreign", str(ifindex)))))
    for way, hook, at, shared in (("in", "egress", "oif", "to-guest"), ("out", "ingress", "iif", "from-guest")):
        chain = f"netdev {TABLE} {name}-{way}"
        where = f'type filter hook {hook} device "{interface}" priority {_PRIORITY};'
        lines += [f"add chain {chain} {{ {where} }}", f"flush chain {chain}"]
        # A chain that outlives its interface would see the next one of that name, which has a chain of its own.
        lines.append(f"add rule {chain} {at} {ifindex} jump {shared}")
    return "\n".join([*lines, ""])


def seal(lives: Collection[tuple[str, int]]) -> str:
    """Text that seals covered interfaces, (key, ifindex) of each. Together they take nft a quarter of the time."""
    indexes = ", ".join(str(index) for _, index in lives)
    return "\n".join([*_counters(lives, _REFUSED), _element("sealed", indexes), ""]) if lives else ""


def unseal(indexes: Collection[int]) -> str:
    """Text that lets sealed interfaces through again."""
    sealed = _element("sealed", ", ".join(map(str, indexes)))
    return f"{sealed}\n{_undone(sealed)}\n" if indexes else ""


def allow(name: str, index: int, networks: Iterable[str]) -> str:
    """Text that opens an interface's seal, if it has one, for these addresses and networks."""
    families: dict[str, list[str]] = {"ip": [], "ip6": []}
    for network in networks:
        families["ip6" if ":" in network else "ip"].append(network)
    lines = []
    for way, (where, interface, peer) in _ALLOWED.items():
        chain = f"netdev {TABLE} {name}-{where}"
        passes = f"counter name {interface} map @{way} accept"
        lines += [f"add chain {chain}", f"flush chain {chain}"]
        for family, found in families.items():
            if found:
                lines.append(f"add rule {chain} {family} {peer} {{ {', '.join(found)} }} {passes}")
                lines.append(f"add rule {chain} {FINDING[family][way]} {_SPARINGLY} {passes}")
        lines.append(_element(where, f"{index} : jump {name}-{where}"))
    return "\n".join([*lines, ""])


def disallow(name: str, index: int) -> str:
    """Text that takes that away again, whether it is there or not."""
    lines = []
    for where, _, _ in _ALLOWED.values():
        chain = f"chain netdev {TABLE} {name}-{where}"
        lines += [f"add {chain}", _element(where, f"{index} : jump {name}-{where}")]
        lines += [_undone(_element(where, str(index))), f"flush {chain}", f"delete {chain}"]
    return "\n".join([*lines, ""])


def _counters(lives: Iterable[tuple[str, int]], kinds: Iterable[str]) -> list[str]:
    lines = []
    for what in kinds:
        lines += [f"add counter netdev {TABLE} {name}-{what}" for name, _ in lives]
        lines.append(_element(what, ", ".join(f'{index} : "{name}-{what}"' for name, index in lives)))
    return lines


def _element(where: str, what: str) -> str:
    return f"add element netdev {TABLE} {where} {{ {what} }}"


def _undone(line: str) -> str:
    """The line that takes away what another one adds."""
    return f"delete {line.removeprefix('add ')}"


def unchain(name: str) -> str:
    """Text that takes the two chains of a key away, whether they are there or not."""
    verbs = ("add", "flush", "delete")
    return "".join(f"{verb} chain netdev {TABLE} {name}-{way}\n" for way in WAYS for verb in verbs)


def own(elements: Iterable[bytes]) -> list[tuple[int, str]]:
    """The set's elements, from their keys: (ifindex, MAC as `disown` takes it)."""
    return [(int.from_bytes(key[:4], sys.byteorder), f"0x{key[4:10].hex()}") for key in elements]


def indexes(elements: Iterable[bytes]) -> frozenset[int]:
    """The elements of a set of interfaces, from their keys: ifindexes."""
    return frozenset(int.from_bytes(key, sys.byteorder) for key in elements)


def mapped(elements: Mapping[bytes, str]) -> dict[int, str]:
    """A map's elements, from their keys: ifindex -> counter."""
    return {int.from_bytes(key, sys.byteorder): counter for key, counter in elements.items()}


def disown(index: int, mac: str) -> str:
    """Text that takes a MAC from an interface that is gone."""
    element = _element("own", f"{index} . {mac}")
    return f"{element}\n{_undone(element)}\n"


def stray(what: str, index: int) -> str:
    """Text that takes an interface out of a map which it is in."""
    return f"{_undone(_element(what, str(index)))}\n"


def uncount(name: str, index: int) -> str:
    """Text that takes an interface's counters away, whether they are there or not. Its seal drops without them."""
    lines = _counters([(name, index)], WHAT)
    for what in WHAT:
        lines += [_undone(_element(what, str(index))), f"delete counter netdev {TABLE} {name}-{what}"]
    return "\n".join([*lines, ""])


def uncover(name: str) -> str:
    """Text that takes away everything of one key, but for its MAC. Each thing is added first, so that none can be
    missing."""
    life = life_of(name)
    if life is None:
        return ""
    index = life[2]
    lines = [unchain(name) + disallow(name, index) + uncount(name, index).rstrip("\n")]
    for flag in ("sealed", "foreign"):
        element = _element(flag, str(index))
        lines += [element, _undone(element)]
    return "\n".join([*lines, ""])


def _number(mac: str | None) -> str:
    """A MAC as nft's raw expressions take it, or nothing where it is none."""
    digits = (mac or "").replace(":", "").lower()
    return f"0x{digits}" if len(digits) == 12 and set(digits) <= set("0123456789abcdef") else ""

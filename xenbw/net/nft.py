"""The chains and counters on guests' interfaces, as text for nft(8).

Each interface has two chains of the netdev family, which see a packet before any bridge, router or firewall does (out:
ingress hook) or after all of them (in: egress hook). They jump to chains that all share, where maps lead from the
interface to its named counters, which the kernel keeps when the interface goes and its own counters are lost: one more
interface is a few elements, and a packet costs the same with one interface as with a thousand.

The hook pays for every import at each boot of a VM, so this imports next to nothing.
"""

from __future__ import annotations

TABLE = "xenbw"
# Ahead of whatever an admin hangs there at the usual 0, whose drops then count like those of any firewall.
_PRIORITY = -300
# A counter's name is its interface's key and one of these words, which are those of the maps as well.
WHAT = ("in", "out", "flood", "refused-in", "refused-out")
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


# Nothing passes a sealed interface. Of the others all that comes from the guest is its usage, and what goes to it if it
# is for an address of its own, or for many (the lowest bit of the first byte, IEEE 802). Who sends by other addresses
# may be reached by them: what is not for it cannot be told then, and all of it counts.
_TO_GUEST = (
    "oif @sealed counter name oif map @refused-in drop",
    f"oif . {_DESTINATION} @own counter name oif map @in return",
    "@ll,7,1 1 counter name oif map @in return",
    "oif @foreign counter name oif map @in return",
    "counter name oif map @flood",
)
_FROM_GUEST = (
    "iif @sealed counter name iif map @refused-out drop",
    "iif @foreign counter name iif map @out return",
    f"iif . {_SOURCE} != @own add @foreign {{ iif }}",
    f"meta protocol arp iif . {_ARP_SENDER} != @own add @foreign {{ iif }}",
    "meta protocol { 8021q, 8021ad } add @foreign { iif }",
    "icmpv6 type { 133, 134, 135, 136, 137 } jump neighbours",
    "counter name iif map @out",
)
# RFC 4861: an address is told to others in an option of type 1 or 2; a nonce (14, RFC 3971) stands alone where the
# sender has no address yet. The options of a router solicitation (133) follow sooner than those of the others.
_NEIGHBOURS = (
    "icmpv6 type { 134, 137 } add @foreign { iif }",
    "icmpv6 type 133 @th,64,8 1 iif . @th,80,48 != @own add @foreign { iif }",
    "icmpv6 type 133 @th,64,8 != 1 add @foreign { iif }",
    "icmpv6 type { 135, 136 } @th,192,8 { 1, 2 } iif . @th,208,48 != @own add @foreign { iif }",
    "icmpv6 type { 135, 136 } @th,192,8 != { 1, 2, 14 } add @foreign { iif }",
    "icmpv6 type { 135, 136 } @th,192,8 14 @th,256,8 != 0 add @foreign { iif }",
)
SHARED = {"to-guest": _TO_GUEST, "from-guest": _FROM_GUEST, "neighbours": _NEIGHBOURS}
"""The rules of the chains that all interfaces share."""


def foundation() -> str:
    """Text for what all interfaces share: put there, or made what it should be."""
    lines = [
        f"add table netdev {TABLE}",
        f"add set netdev {TABLE} sealed {{ type iface_index; }}",
        f"add set netdev {TABLE} own {{ typeof oif . {_DESTINATION}; }}",
        f"add set netdev {TABLE} foreign {{ type iface_index; flags dynamic; size 65535; }}",
        *(f"add map netdev {TABLE} {what} {{ type iface_index : counter; }}" for what in WHAT),
    ]
    for verb in ("add", "flush"):
        lines += [f"{verb} chain netdev {TABLE} {chain}" for chain in SHARED]
    for chain, rules in SHARED.items():
        lines += [f"add rule netdev {TABLE} {chain} {rule}" for rule in rules]
    return "\n".join([*lines, ""])


def cover(domid: int, devid: int, ifindex: int, interface: str, mac: str | None, *, sealed: bool = False) -> str:
    """Text that puts chains and counters on the interface, upon the foundation. Done twice it changes nothing. mac: as
    Xen gave it; without one nobody can tell what is not for the guest."""
    name, index, own = key(domid, devid, ifindex), ifindex, _number(mac)
    lines = []
    for what in WHAT if sealed else WHAT[:3]:
        lines += [
            f"add counter netdev {TABLE} {name}-{what}",
            f'add element netdev {TABLE} {what} {{ {index} : "{name}-{what}" }}',
        ]
    lines.append(f"add element netdev {TABLE} " + (f"own {{ {index} . {own} }}" if own else f"foreign {{ {index} }}"))
    if sealed:
        lines.append(f"add element netdev {TABLE} sealed {{ {index} }}")
    for way, hook, shared in (("in", "egress", "to-guest"), ("out", "ingress", "from-guest")):
        chain = f"netdev {TABLE} {name}-{way}"
        where = f'type filter hook {hook} device "{interface}" priority {_PRIORITY};'
        lines += [f"add chain {chain} {{ {where} }}", f"flush chain {chain}", f"add rule {chain} jump {shared}"]
    return "\n".join([*lines, ""])


def unseal(index: int) -> str:
    """Text that lets a sealed interface through again."""
    element = f"element netdev {TABLE} sealed {{ {index} }}"
    return f"add {element}\ndelete {element}\n"


def unchain(name: str) -> str:
    """Text that takes the two chains of a key away, whether they are there or not."""
    verbs = ("add", "flush", "delete")
    return "".join(f"{verb} chain netdev {TABLE} {name}-{way}\n" for way in ("in", "out") for verb in verbs)


def uncover(name: str) -> str:
    """Text that takes away everything of one key. Each thing is added first, so that none can be missing."""
    life = life_of(name)
    if life is None:
        return ""
    index = life[2]
    lines = [unchain(name).rstrip("\n")]
    for what in WHAT:
        counter, element = f"counter netdev {TABLE} {name}-{what}", f"element netdev {TABLE} {what} {{ {index}"
        lines += [f"add {counter}", f'add {element} : "{name}-{what}" }}', f"delete {element} }}", f"delete {counter}"]
    for flags in ("sealed", "foreign"):
        element = f"element netdev {TABLE} {flags} {{ {index} }}"
        lines += [f"add {element}", f"delete {element}"]
    return "\n".join([*lines, ""])


def _number(mac: str | None) -> str:
    """A MAC as nft's raw expressions take it, or nothing where it is none."""
    digits = (mac or "").replace(":", "").lower()
    return f"0x{digits}" if len(digits) == 12 and set(digits) <= set("0123456789abcdef") else ""

"""The chains and counters on vifs, as text for nft(8).

Each vif has two chains of the netdev family, which see a packet before any bridge, router or firewall does (out:
ingress hook) or after all of them (in: egress hook). They jump to chains that all vifs share. There, maps lead from the
vif to its named counters, which the kernel keeps when the vif goes and its own counters are lost. One more vif is a few
elements, and a packet costs the same with one vif as with a thousand.

The hook pays for every import at each boot of a VM, so this imports next to nothing.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

TABLE = "xenbw"
# Ahead of an admin's chains there at the usual priority 0: what they drop counts as what any firewall drops.
_PRIORITY = -300
# A counter's name is its vif's key and one of these words. The maps have these words as their names.
WHAT = ("in", "out", "flood", "refused-in", "refused-out")
WAYS = ("in", "out")
# A blocked guest's allowed networks have a chain for each direction; a verdict map leads to it from the guest's vif.
_ALLOWED = {"in": ("allowed-in", "oif", "saddr"), "out": ("allowed-out", "iif", "daddr")}
# A guest needs ARP, and of RFC 4861 the messages that stay on the link, to find its allowed addresses. Their size and
# rate are limited, or they could carry other traffic.
_SPARINGLY = "meta length <= 128 limit rate 20/second burst 40 packets"
FINDING = {
    "ip": {"in": "meta protocol arp", "out": "meta protocol arp"},
    "ip6": {
        "in": "ip6 hoplimit 255 icmpv6 type { 134, 135, 136 }",
        "out": "ip6 daddr { fe80::/10, ff02::/16 } icmpv6 type { 133, 135, 136 }",
    },
}
# Fields of an Ethernet frame: offset and length in bits. `ether daddr` would check the type of the incoming interface
# first, which a packet that leaves does not have; `arp saddr` is of another type than the set's.
_DESTINATION, _SOURCE, _ARP_SENDER, _CHADDR = "@ll,0,48", "@ll,48,48", "@ll,176,48", "@th,288,48"


def key(domid: int, devid: int, ifindex: int) -> str:
    """A vif's name in the table. In one boot domids, devids and names may come again; an ifindex does not."""
    return f"v{domid}.{devid}.{ifindex}"


def life_of(name: str) -> tuple[int, int, int] | None:
    """(domid, devid, ifindex) of a key, or None if the word is not a key."""
    words = name.removeprefix("v").split(".")
    if not name.startswith("v") or len(words) != 3 or not all(map(str.isdecimal, words)):
        return None
    return (int(words[0]), int(words[1]), int(words[2]))


def can_name(interface: str) -> bool:
    """Whether nft's language can spell this name: its strings have no escapes, and `*` makes a pattern."""
    return interface.isascii() and interface.isprintable() and not set(interface) & set('"*\\')


# What a VM on a quiet bridge gets of broadcasts and multicasts is far less. Beyond this, one guest could use up the
# allowances of all its neighbours by them.
_GROUP_RATE = "limit rate over 4 kbytes/second burst 1 mbytes"
# Seconds for which others may remember a MAC: some routers keep an ARP entry for hours.
DAY = 86_400
# A sealed vif passes only what its guest is allowed. On other vifs, all that the guest sends is usage. What is sent to
# the guest is usage if it is for one of the guest's MACs or, within that rate, for a group (the lowest bit of the first
# byte, IEEE 802), else flood. A guest that used another MAC may be reached by it as long as others remember it: all of
# that counts as usage.
_TO_GUEST = (
    "oif @sealed jump sealed-in",
    f"oif . {_DESTINATION} @own goto usage-in",
    "oif @aliased goto usage-in",
    f"@ll,7,1 1 add @groups {{ oif {_GROUP_RATE} }} goto flooded",
    "@ll,7,1 1 goto usage-in",
    "goto flooded",
)
# The guest of a sealed vif may reach its allowed networks, and so it may tell them another MAC.
_FROM_GUEST = ("jump told", "iif @sealed jump sealed-out", "goto usage-out")
_TOLD = (
    f"iif . {_SOURCE} != @own update @aliased {{ iif }}",
    f"meta protocol arp iif . {_ARP_SENDER} != @own update @aliased {{ iif }}",
    "meta protocol 8021q update @aliased { iif }",
    "meta protocol 8021ad update @aliased { iif }",
    "udp dport 67 jump leases",
    "icmpv6 type 133-137 jump neighbours",
)
# RFC 2131: a DHCP client tells its MAC in chaddr, 28 bytes behind the UDP header, and a server may put it into its ARP
# table, as dnsmasq does. In a first fragment the field may be cut off or overlapped, and any bytes may follow a short
# one, of which the receiver takes no notice. Others may ask any server on a guest from port 67: its answer is no
# request (op 1) of an Ethernet card (htype 1) with an address of up to 16 bytes, or is shorter than any request (RFC
# 951: 236 bytes behind the UDP header), as an answer of STUN is.
_LEASES = (
    "ip frag-off & 0x2000 != 0 ip length < 256 update @aliased { iif }",
    "udp length < 244 return",
    "@th,64,16 != 0x0101 return",
    "@th,80,8 > 16 return",
    f"iif . {_CHADDR} != @own update @aliased {{ iif }}",
    "ip frag-off & 0x2000 != 0 update @aliased { iif }",
)
# Usage passes the chains of throttles and tripwires first, whose rules come with the first throttle and the first
# tripwire (blocks/throttle_text.py, blocks/tripwire_text.py).
_USAGE = {
    f"usage-{way}": (f"jump throttle-{way}", f"jump tripwire-{way}", f"counter name {interface} map @{way}")
    for way, (_, interface, _) in _ALLOWED.items()
}
# RFC 4861: a guest tells its MAC to others in an option of type 1 or 2; a nonce (14, RFC 3971) stands alone where the
# sender has no address yet. The options of a router solicitation (133) begin earlier than those of the other types.
# Honest guests send one option of 8 bytes, which the rules look at, and no header in between: what is behind another
# option, or in another fragment, could be anything.
_NEIGHBOURS = (
    "ip6 nexthdr != 58 update @aliased { iif }",
    "icmpv6 type 134 update @aliased { iif }",
    "icmpv6 type 137 update @aliased { iif }",
    "icmpv6 type 133 ip6 length > 16 update @aliased { iif }",
    "icmpv6 type 135-136 ip6 length > 32 update @aliased { iif }",
    "icmpv6 type 133 @th,64,8 1 iif . @th,80,48 != @own update @aliased { iif }",
    "icmpv6 type 133 @th,64,8 != 1 update @aliased { iif }",
    "icmpv6 type 135-136 @th,192,8 1-2 iif . @th,208,48 != @own update @aliased { iif }",
    "icmpv6 type 135-136 @th,192,8 != 1-2 @th,192,8 != 14 update @aliased { iif }",
)
_SEALED = {
    f"sealed-{way}": (f"{interface} vmap @{where}", f"goto refuse-{way}")
    for way, (where, interface, _) in _ALLOWED.items()
}
# The drop is a rule of its own: a rule ends at a map that has no element for the vif.
_REFUSED = {
    f"refuse-{way}": (f"counter name {interface} map @refused-{way}", "drop")
    for way, (_, interface, _) in _ALLOWED.items()
}
NOTICED = ("aliased", "groups")
"""The sets to which packets add vifs."""
# No rule here uses an unnamed set, so a rule looks the same in the kernel each time it is written.
SHARED = {
    "to-guest": _TO_GUEST,
    "from-guest": _FROM_GUEST,
    "told": _TOLD,
    "leases": _LEASES,
    "neighbours": _NEIGHBOURS,
    "flooded": ("counter name oif map @flood",),
    **_SEALED,
    **_REFUSED,
    **_USAGE,
}
"""The rules of the chains that all vifs share."""


def foundation() -> str:
    """Text that makes or repairs what all vifs share: the table, its sets, maps and shared chains."""
    lines = [
        f"add table netdev {TABLE}",
        f"add set netdev {TABLE} sealed {{ type iface_index; }}",
        f"add set netdev {TABLE} own {{ typeof oif . {_DESTINATION}; }}",
        f"add set netdev {TABLE} aliased {{ type iface_index; flags dynamic,timeout; timeout {DAY}s; size 65535; }}",
        f"add set netdev {TABLE} groups {{ type iface_index; flags dynamic; size 65535; }}",
        *(f"add map netdev {TABLE} {what} {{ type iface_index : counter; }}" for what in WHAT),
        *(f"add map netdev {TABLE} {where} {{ type iface_index : verdict; }}" for where, _, _ in _ALLOWED.values()),
    ]
    lines += [f"add chain netdev {TABLE} {chain}-{way}" for chain in ("throttle", "tripwire") for way in WAYS]
    for verb in ("add", "flush"):
        lines += [f"{verb} chain netdev {TABLE} {chain}" for chain in SHARED]
    for chain, rules in SHARED.items():
        lines += [f"add rule netdev {TABLE} {chain} {rule}" for rule in rules]
    return "\n".join([*lines, ""])


def cover(domid: int, devid: int, ifindex: int, interface: str, mac: str | None) -> str:
    """Text that puts chains and counters on a vif; it needs the foundation, and may be repeated. mac: as Xen gave it;
    without it all traffic to the vif counts, since none of it is known to be for others."""
    name, own = key(domid, devid, ifindex), _number(mac)
    lines = _counters([(name, ifindex)])
    lines.append(_element(*(("own", f"{ifindex} . {own}") if own else ("aliased", str(ifindex)))))
    for way, hook, at, shared in (("in", "egress", "oif", "to-guest"), ("out", "ingress", "iif", "from-guest")):
        chain = f"netdev {TABLE} {name}-{way}"
        where = f'type filter hook {hook} device "{interface}" priority {_PRIORITY};'
        lines += [f"add chain {chain} {{ {where} }}", f"flush chain {chain}"]
        # The ifindex is checked: a chain that outlives its vif would also see the next vif of that name.
        lines.append(f"add rule {chain} {at} {ifindex} jump {shared}")
    return "\n".join([*lines, ""])


def alias(ifindex: int, seconds: int) -> str:
    """Text for a vif whose guest used another MAC in an earlier life or on another vif: all that is sent to it is usage
    for so many seconds, a day at most."""
    # To add an element that is there changes its time only from Linux 6.12 on.
    there, wanted = str(ifindex), f"{ifindex} timeout {DAY}s expires {min(seconds, DAY)}s"
    added = _element("aliased", there)
    return "\n".join([added, _undone(added), _element("aliased", wanted), ""])


def seal(indexes: Collection[int]) -> str:
    """Text that seals vifs which have chains. One text for all vifs takes nft a quarter of the time."""
    return f"{_element('sealed', ', '.join(map(str, indexes)))}\n" if indexes else ""


def unseal(indexes: Collection[int]) -> str:
    """Text that removes the seals of these vifs."""
    sealed = _element("sealed", ", ".join(map(str, indexes)))
    return f"{sealed}\n{_undone(sealed)}\n" if indexes else ""


def allow(name: str, index: int, networks: Iterable[str]) -> str:
    """Text that lets these addresses and networks through a vif's seal, if it has one."""
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
    """Text that takes back `allow`; it may be missing."""
    lines = []
    for where, _, _ in _ALLOWED.values():
        chain = f"chain netdev {TABLE} {name}-{where}"
        lines += [f"add {chain}", _element(where, f"{index} : jump {name}-{where}")]
        lines += [_undone(_element(where, str(index))), f"flush {chain}", f"delete {chain}"]
    return "\n".join([*lines, ""])


def _counters(lives: Iterable[tuple[str, int]]) -> list[str]:
    lines = []
    for what in WHAT:
        lines += [f"add counter netdev {TABLE} {name}-{what}" for name, _ in lives]
        lines.append(_element(what, ", ".join(f'{index} : "{name}-{what}"' for name, index in lives)))
    return lines


def _element(where: str, what: str) -> str:
    return f"add element netdev {TABLE} {where} {{ {what} }}"


def _undone(line: str) -> str:
    """The line that deletes what an `add` line adds."""
    return f"delete {line.removeprefix('add ')}"


def unchain(name: str) -> str:
    """Text that deletes the two chains of a vif; they may be missing."""
    verbs = ("add", "flush", "delete")
    return "".join(f"{verb} chain netdev {TABLE} {name}-{way}\n" for way in WAYS for verb in verbs)


def own(elements: Iterable[bytes]) -> list[tuple[int, str]]:
    """The elements of the set `own`, from their keys: (ifindex, MAC as `disown` takes it)."""
    return [(int.from_bytes(key[:4], sys.byteorder), f"0x{key[4:10].hex()}") for key in elements]


def indexes(elements: Iterable[bytes]) -> frozenset[int]:
    """The ifindexes in a set of interfaces, from its elements' keys."""
    return frozenset(int.from_bytes(key, sys.byteorder) for key in elements)


def mapped(elements: Mapping[bytes, str]) -> dict[int, str]:
    """A map's elements by ifindex: ifindex -> counter."""
    return {int.from_bytes(key, sys.byteorder): counter for key, counter in elements.items()}


def disown(index: int, mac: str) -> str:
    """Text that deletes a MAC of a vif that is gone."""
    element = _element("own", f"{index} . {mac}")
    return f"{element}\n{_undone(element)}\n"


def stray(what: str, index: int) -> str:
    """Text that deletes a vif's element from a map; it fails if there is none."""
    return f"{_undone(_element(what, str(index)))}\n"


def uncount(name: str, index: int) -> str:
    """Text that deletes a vif's counters; they may be missing. Its seal drops without them."""
    lines = _counters([(name, index)])
    for what in WHAT:
        lines += [_undone(_element(what, str(index))), f"delete counter netdev {TABLE} {name}-{what}"]
    return "\n".join([*lines, ""])


def uncover(name: str) -> str:
    """Text that deletes everything of a key except its MAC. Each thing is added first, so that its deletion cannot
    fail."""
    life = life_of(name)
    if life is None:
        return ""
    index = life[2]
    lines = [unchain(name) + disallow(name, index) + uncount(name, index).rstrip("\n")]
    for flag in ("sealed", *NOTICED):
        element = _element(flag, str(index))
        lines += [element, _undone(element)]
    return "\n".join([*lines, ""])


def _number(mac: str | None) -> str:
    """A MAC as nft's raw expressions take it, or "" if it is not a MAC."""
    digits = (mac or "").replace(":", "").lower()
    return f"0x{digits}" if len(digits) == 12 and set(digits) <= set("0123456789abcdef") else ""

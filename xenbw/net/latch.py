"""The latch on blocked domains, as text for nft(8): it stops what comes from a card that they get while they run.

A seal is put on an interface. But a card attached to a running guest is connected and bridged before its vif script
calls a hook, so with no daemon there its seal comes late. The latch goes by the name that netback gives an interface,
`vif<domid>.<devid>`, and is there before it, on every way from an interface into the host: a bridge, a router, ARP.

The hook uses this at each boot of a blocked VM, so it imports next to nothing.
"""

from __future__ import annotations

from xenbw.net.nft import FINDING, TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

CHAIN, SET = "latch", "latched"
# Families, their numbers (linux/netfilter.h), and the hooks that see a packet first.
_WAYS = {"bridge": (7, "prerouting"), "inet": (1, "prerouting"), "arp": (3, "input")}
FAMILIES = {family: number for family, (number, _) in _WAYS.items()}
_PRIORITY = -300
# The families of addresses that a packet there has, and those whose addresses are looked for there.
_ADDRESSED = {"bridge": ("ip", "ip6"), "inet": ("ip", "ip6"), "arp": ()}
_FINDING = {"bridge": ("ip", "ip6"), "inet": ("ip6",), "arp": ("ip",)}


def foundation(allow: Collection[str]) -> str:
    """Text for what all latched domains share: put there, or made what it should be. allow: addresses and networks that
    seals are open for."""
    lines = []
    for family, (_, hook) in _WAYS.items():
        lines += [
            f"add table {family} {TABLE}",
            # The type of a card, which is always the same, makes it a set of two words. Of patterns alone nft 1.0.6
            # takes only those of one length.
            f"add set {family} {TABLE} {SET} {{ type ifname . iface_type; flags interval; }}",
            f"add chain {family} {TABLE} {CHAIN} {{ type filter hook {hook} priority {_PRIORITY}; }}",
            f"flush chain {family} {TABLE} {CHAIN}",
        ]
        rules = [f"iifname . meta iiftype != @{SET} accept", *_exceptions(family, allow), "drop"]
        lines += [f"add rule {family} {TABLE} {CHAIN} {rule}" for rule in rules]
    return "\n".join([*lines, ""])


def _exceptions(family: str, allow: Collection[str]) -> list[str]:
    """What a blocked guest may all the same, until its seal is there and looks closer."""
    rules = []
    for version in ("ip", "ip6"):
        networks = [network for network in allow if (":" in network) is (version == "ip6")]
        if networks and version in _ADDRESSED[family]:
            rules.append(f"{version} daddr {{ {', '.join(networks)} }} accept")
        if networks and version in _FINDING[family]:
            rules.append(f"{FINDING[version]['out']} accept")
    return rules


def fasten(domids: Iterable[int]) -> str:
    """Text that latches these domains, upon the foundation, whether they are or not."""
    return _elements("add", domids)


def loosen(domids: Collection[int]) -> str:
    """Text that takes the latch off domains, whether they have it or not."""
    return _elements("add", domids) + _elements("delete", domids)


def _elements(verb: str, domids: Iterable[int]) -> str:
    names = ", ".join(f'"vif{domid}.*" . ether' for domid in domids)
    return "".join(f"{verb} element {family} {TABLE} {SET} {{ {names} }}\n" for family in _WAYS) if names else ""


def remove() -> str:
    """Text that takes all of it away, whether it is there or not."""
    return "".join(f"{verb} table {family} {TABLE}\n" for family in _WAYS for verb in ("add", "delete"))


def domids(elements: Iterable[bytes]) -> frozenset[int]:
    """The domains in a set, from its elements' keys: an interface's name, as far as it must agree, and a type."""
    names = (key[:16].rstrip(b"\0").removeprefix(b"vif").removesuffix(b".") for key in elements)
    return frozenset(int(name) for name in names if name.isdigit())

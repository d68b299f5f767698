"""The latch on blocked domains, as text for nft(8): it stops what comes from a card that they get while they run.

A seal is put on an interface. But a card attached to a running guest is connected and bridged before its vif script
calls a hook, so with no daemon there its seal comes late. The latch goes by the name that netback gives an interface,
`vif<domid>.<devid>`, and is there before it: where a bridge takes frames in, where dom0 takes packets in, and for ARP.
It goes by the interface's group too, which udev gives it at once and a rename leaves (rundir/latched.py). A name proves
nothing, though: `vifname=vif5.0` gives another domain's card the name of domain 5's. Cards that are known to be of a
domain in good standing, whatever they are called, are in the set `misnamed`. The latch knows nothing of what others
take from an interface before those do: Open vSwitch, a macvlan, a bridge's own spanning tree (net/bridge/br_input.c,
br_handle_frame).

The hook uses this at each boot of a blocked VM, so it imports next to nothing.
"""

from __future__ import annotations

from xenbw.nft.nft import FINDING, TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

SET, GROUPS, MISNAMED = "latched", "groups", "misnamed"
# By family, the hook that sees a packet first, and has a chain of its name.
CHAINS = {"bridge": "prerouting", "inet": "prerouting", "arp": "input"}
FAMILIES = {"bridge": 7, "inet": 1, "arp": 3}
"""Numbers of the families, by linux/netfilter.h."""
UNDO = """\
for family in bridge inet arp; do
    nft delete table "$family" xenbw 2>/dev/null || true
done
rm -rf /run/xenbw/latched"""
"""Shell commands that take all latches away."""
OWN = "own"  # a chain for domains that are allowed something of their own
PREFIX = "vif{}."  # of the names that netback gives a domain's cards, and libxl their taps
FIRST_GROUP = 0x78620000  # "xb"; hooks/vif-group knows it too
_PRIORITY = -300
# The families of addresses that a packet there has, and those whose addresses are looked for there.
_ADDRESSED = {"bridge": ("ip", "ip6"), "inet": ("ip", "ip6"), "arp": ()}
_FINDING = {"bridge": ("ip", "ip6"), "inet": ("ip6",), "arp": ("ip",)}
# A limit on their rate would be one for all latched guests: those that are sealed have one each, ahead of it.
_SHORT = "meta length <= 128"


def group(domid: int) -> int:
    """The group that a latched domain's new interfaces are put into."""
    return FIRST_GROUP + domid


def foundation(allow: Collection[str]) -> str:
    """Text for what all latched domains share: put there, or made what it should be. allow: addresses and networks that
    seals are open for, but those of domains with their own."""
    lines = []
    for family, chain in CHAINS.items():
        lines += [
            f"add table {family} {TABLE}",
            # The type of a card, which is always the same, makes it a set of two words. Of patterns alone nft 1.0.6
            # takes only those of one length.
            f"add set {family} {TABLE} {SET} {{ type ifname . iface_type; flags interval; }}",
            f"add set {family} {TABLE} {GROUPS} {{ type devgroup; }}",
            f"add set {family} {TABLE} {MISNAMED} {{ type iface_index; }}",
            f"add chain {family} {TABLE} {OWN}",
            f"add chain {family} {TABLE} {chain} {{ type filter hook {chain} priority {_PRIORITY}; }}",
            f"flush chain {family} {TABLE} {chain}",
        ]
        others = (
            f"iifgroup != @{GROUPS} iifname . meta iiftype != @{SET} accept",
            f"iifgroup != @{GROUPS} iif @{MISNAMED} accept",
        )
        rules = [*others, f"jump {OWN}", *_exceptions(family, allow), "drop"]
        lines += [f"add rule {family} {TABLE} {chain} {rule}" for rule in rules]
    return "\n".join([*lines, ""])


def allow(domid: int, networks: Collection[str]) -> str:
    """Text that has a domain, if it is latched, reach these and nothing else, upon the foundation. To say it again
    changes nothing but by what the first did not say."""
    lines = []
    for family in CHAINS:
        # A latched domain's card may have the name of another's: its group tells whose exceptions are its own.
        for whose in (f'iifgroup != @{GROUPS} iifname "{PREFIX.format(domid)}*"', f"iifgroup {group(domid)}"):
            rules = [*_exceptions(family, networks), "drop"]
            lines += [f"add rule {family} {TABLE} {OWN} {whose} {rule}" for rule in rules]
    return "\n".join([*lines, ""])


def _exceptions(family: str, allow: Collection[str]) -> list[str]:
    """What a blocked guest may all the same, until its seal is there and looks closer."""
    rules = []
    for version in ("ip", "ip6"):
        networks = [network for network in allow if (":" in network) is (version == "ip6")]
        if networks and version in _ADDRESSED[family]:
            rules.append(f"{version} daddr {{ {', '.join(networks)} }} accept")
        if networks and version in _FINDING[family]:
            rules.append(f"{FINDING[version]['out']} {_SHORT} accept")
    return rules


def fasten(domids: Collection[int]) -> str:
    """Text that latches these domains, upon the foundation, whether they are or not."""
    return _elements("add", domids)


def loosen(domids: Collection[int]) -> str:
    """Text that takes the latch off domains, whether they have it or not."""
    return _elements("add", domids) + _elements("delete", domids)


def excuse(indexes: Collection[int]) -> str:
    """Text that has the names of these interfaces, by their ifindexes, mean nothing, upon the foundation."""
    return _indexes("add", indexes)


def accuse(indexes: Collection[int]) -> str:
    """Text that takes that back, whether it was so or not."""
    return _indexes("add", indexes) + _indexes("delete", indexes)


def _indexes(verb: str, indexes: Collection[int]) -> str:
    if not indexes:
        return ""
    elements = ", ".join(map(str, indexes))
    return "".join(f"{verb} element {family} {TABLE} {MISNAMED} {{ {elements} }}\n" for family in CHAINS)


def _elements(verb: str, domids: Collection[int]) -> str:
    if not domids:
        return ""
    by_set = {
        SET: ", ".join(f'"{PREFIX.format(domid)}*" . ether' for domid in domids),
        GROUPS: ", ".join(str(group(domid)) for domid in domids),
    }
    return "".join(
        f"{verb} element {family} {TABLE} {name} {{ {elements} }}\n"
        for family in CHAINS
        for name, elements in by_set.items()
    )


def remove() -> str:
    """Text that takes all of it away, whether it is there or not."""
    return "".join(f"{verb} table {family} {TABLE}\n" for family in CHAINS for verb in ("add", "delete"))

"""The latch, as text for nft(8): it drops traffic from vifs that are hot-plugged into a blocked domain later.

A seal is put on a vif that exists. But a vif attached to a running guest is connected and bridged before its vif script
calls the hook, so without xenbwd its seal comes late. The latch is in place before the vif: it matches the name that
netback gives, `vif<domid>.<devid>`, where a bridge takes frames in, where dom0 takes packets in, and for ARP. It also
matches the interface group, which udev sets at once and a rename does not change (rundir/latched.py). A name proves
nothing, though: `vifname=vif5.0` gives another domain's vif the name of domain 5's. So vifs that are known to belong to
a domain in good standing, whatever their names, are in the set `misnamed`. The latch does not see traffic that is taken
from a vif earlier: by Open vSwitch, a macvlan, or a bridge's own spanning tree (net/bridge/br_input.c,
br_handle_frame).

The hook uses this at each boot of a blocked VM, so it imports next to nothing.
"""

from __future__ import annotations

from xenbw.nft.nft import FINDING, TABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

SET, GROUPS, MISNAMED = "latched", "groups", "misnamed"
# By family, the hook that sees a packet first. Our chain there has the same name.
CHAINS = {"bridge": "prerouting", "inet": "prerouting", "arp": "input"}
FAMILIES = {"bridge": 7, "inet": 1, "arp": 3}
"""Numbers of the families, by linux/netfilter.h."""
UNDO = """\
for family in bridge inet arp; do
    nft delete table "$family" xenbw 2>/dev/null || true
done
rm -rf "$1"/latched"""
"""Shell commands that remove all latches. $1: xenbw's folder under /run."""
OWN = "own"  # the chain for domains that have their own exceptions
PREFIX = "vif{}."  # begins the names that netback gives a domain's vifs, and libxl their taps
FIRST_GROUP = 0x78620000  # "xb"; hooks/vif-group knows it too
_PRIORITY = -300
# By family: the IP versions whose addresses its packets have, and those whose neighbour discovery it sees.
_ADDRESSED = {"bridge": ("ip", "ip6"), "inet": ("ip", "ip6"), "arp": ()}
_FINDING = {"bridge": ("ip", "ip6"), "inet": ("ip6",), "arp": ("ip",)}
# No limit on the rate here: it would be one for all latched guests. A sealed vif has a limit of its own, ahead of this.
_SHORT = "meta length <= 128"


def group(domid: int) -> int:
    """The group into which udev puts a latched domain's new interfaces."""
    return FIRST_GROUP + domid


def foundation(allow: Collection[str]) -> str:
    """Text that makes or repairs what all latched domains share. allow: addresses and networks that a blocked domain
    may reach, unless it has exceptions of its own."""
    lines = []
    for family, chain in CHAINS.items():
        lines += [
            f"add table {family} {TABLE}",
            # The interface's type, always `ether`, is in the key since nft 1.0.6 refuses name patterns of different
            # lengths in a set of names alone.
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
    """Text that lets a domain, if it is latched, reach these networks and no others; it needs the foundation. Rules are
    only added: repeated for other networks, the text leaves the first ones in force."""
    lines = []
    for family in CHAINS:
        # A latched domain's vif may have the name of another domain's vif: the group tells whose exceptions apply.
        for whose in (f'iifgroup != @{GROUPS} iifname "{PREFIX.format(domid)}*"', f"iifgroup {group(domid)}"):
            rules = [*_exceptions(family, networks), "drop"]
            lines += [f"add rule {family} {TABLE} {OWN} {whose} {rule}" for rule in rules]
    return "\n".join([*lines, ""])


def _exceptions(family: str, allow: Collection[str]) -> list[str]:
    """Rules for the networks that a blocked guest may reach; its seal, once there, checks more closely."""
    rules = []
    for version in ("ip", "ip6"):
        networks = [network for network in allow if (":" in network) is (version == "ip6")]
        if networks and version in _ADDRESSED[family]:
            rules.append(f"{version} daddr {{ {', '.join(networks)} }} accept")
        if networks and version in _FINDING[family]:
            rules.append(f"{FINDING[version]['out']} {_SHORT} accept")
    return rules


def latch(domids: Collection[int]) -> str:
    """Text that latches these domains; it needs the foundation, and may be repeated."""
    return _elements("add", domids)


def unlatch(domids: Collection[int]) -> str:
    """Text that unlatches these domains; they may be unlatched already."""
    return _elements("add", domids) + _elements("delete", domids)


def ignore_names(indexes: Collection[int]) -> str:
    """Text that makes the latch ignore the names of these interfaces (ifindexes); it needs the foundation."""
    return _indexes("add", indexes)


def heed_names(indexes: Collection[int]) -> str:
    """Text that takes back `ignore_names`; it may be missing."""
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
    """Text that removes all latches and what they share; it may be missing."""
    return "".join(f"{verb} table {family} {TABLE}\n" for family in CHAINS for verb in ("add", "delete"))

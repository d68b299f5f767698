"""The tripwire, as text for nft(8): the kernel itself refuses the frame with which a VM would pass its allowance.

Each line of a VM's allowance is a quota object, which all the VM's vifs share: maps lead from the vif to it. A line
"trip" refuses what is past it; a line "slow" has the VM's throttle take hold (throttle_text.py).

The hook uses this at each boot of a VM with an allowance, so it imports next to nothing.
"""

from __future__ import annotations

from xenbw.nft.nft import TABLE, WAYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_INTERFACE = {"in": "oif", "out": "iif"}
LED = {"total": WAYS, "in": ("in",), "out": ("out",)}
"""The directions of the traffic that a line counts, by the line's word for it."""
KINDS = ("trip", "slow")
RULES = {f"tripwire-{way}": (f"quota name {_INTERFACE[way]} map @trip-{way} goto refuse-{way}",) for way in WAYS}
"""The rules of the chains that all VMs with a tripwire share."""
MAPS = tuple(f"{kind}-{way}" for kind in KINDS for way in WAYS)
UNDO = "nft delete table netdev xenbw 2>/dev/null || true"
"""Shell command that takes all tripwires away, and what else is in their table."""


def quota_of(vm_id: int, kind: str, counted: str) -> str:
    """The name of a line's quota object."""
    return f"{kind}-{counted}-{vm_id}"


def line_of(quota: str) -> tuple[int, str, str] | None:
    """(VM's id, kind, what it counts) of a quota object of ours; None for any other name."""
    words = quota.split("-")
    if len(words) != 3 or words[0] not in KINDS or words[1] not in LED or not words[2].isdecimal():
        return None
    return int(words[2]), words[0], words[1]


def maps() -> str:
    """Text that makes the maps that lead from vifs to quota objects."""
    return "".join(f"add map netdev {TABLE} {name} {{ type iface_index : quota; }}\n" for name in MAPS)


def foundation() -> str:
    """Text that makes or repairs what all tripwires share, upon the meter's own foundation."""
    lines = [f"{verb} chain netdev {TABLE} {chain}" for verb in ("add", "flush") for chain in RULES]
    lines += [f"add rule netdev {TABLE} {chain} {rule}" for chain, rules in RULES.items() for rule in rules]
    return maps() + "\n".join([*lines, ""])


def quota(name: str, limit: int, used: int = 0) -> str:
    """Text that makes a quota object which lets so many bytes pass, at least 1, of which `used` are used. On one that
    exists it changes the limit alone (net/netfilter/nft_quota.c, nft_quota_obj_update)."""
    return f"add quota netdev {TABLE} {name} {{ over {limit} bytes used {used} bytes }}\n"


def lead(name: str, quotas: Mapping[int, str]) -> str:
    """Text that leads vifs, by ifindex, to quota objects in one of the MAPS, in which they are not yet."""
    listed = ", ".join(f'{index} : "{quota}"' for index, quota in quotas.items())
    return f"add element netdev {TABLE} {name} {{ {listed} }}\n" if listed else ""


def fasten(index: int, quotas: Iterable[str]) -> str:
    """Text that leads a new vif to the quota objects of its VM."""
    lines = ((quota, line_of(quota)) for quota in quotas)
    return "".join(lead(f"{line[1]}-{way}", {index: quota}) for quota, line in lines if line for way in LED[line[2]])


def loosen(name: str, indexes: Iterable[int]) -> str:
    """Text that takes vifs out of one of the MAPS; it fails if one is not in it."""
    listed = ", ".join(map(str, indexes))
    return f"delete element netdev {TABLE} {name} {{ {listed} }}\n" if listed else ""


def drop(quotas: Iterable[str]) -> str:
    """Text that deletes quota objects to which no map leads."""
    return "".join(f"delete quota netdev {TABLE} {name}\n" for name in quotas)

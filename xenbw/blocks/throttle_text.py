"""The throttle, as text for nft(8): past a VM's allowance, usage that is faster than its rate is refused.

A VM has one limit object for each direction, which all its vifs share: maps lead from the vif to it. The kernel takes
no change of a limit object (seen with 6.12), so its name has the rate, and another rate is another object.

The hook uses this at each boot of a throttled VM, so it imports next to nothing.
"""

from __future__ import annotations

from xenbw.blocks import tripwire_text
from xenbw.nft.nft import TABLE, WAYS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_INTERFACE = {"in": "oif", "out": "iif"}
# Bytes that may pass at once, beside a second's worth of the rate, which the kernel always grants
# (net/netfilter/nft_limit.c, nft_limit_init): with offload a frame has up to 64 KiB.
BURST = 128 * 1024
RULES = {
    name: (rule,)
    for way in WAYS
    for name, rule in (
        # Past its allowance a VM is throttled: its quota object has run out (tripwire_text.py).
        (f"throttle-{way}", f"quota name {_INTERFACE[way]} map @slow-{way} jump slowed-{way}"),
        (f"slowed-{way}", f"limit name {_INTERFACE[way]} map @throttle-{way} goto refuse-{way}"),
    )
}
"""The rules of the chains that all throttled vifs share."""
UNDO = "nft delete table netdev xenbw 2>/dev/null || true"
"""Shell command that takes all throttles away, and what else is in their table."""


def limit_of(vm_id: int, way: str, rate: int) -> str:
    """The name of a VM's limit object."""
    return f"t{vm_id}-{way}-{rate}"


def foundation() -> str:
    """Text that makes or repairs what all throttled vifs share, upon the meter's own foundation."""
    lines = [f"add map netdev {TABLE} throttle-{way} {{ type iface_index : limit; }}" for way in WAYS]
    for verb in ("add", "flush"):
        lines += [f"{verb} chain netdev {TABLE} {chain}" for chain in RULES]
    for chain, rules in RULES.items():
        lines += [f"add rule netdev {TABLE} {chain} {rule}" for rule in rules]
    return tripwire_text.maps() + "\n".join([*lines, ""])


def trial() -> str:
    """Text that tries a limit object and a map to it, and leaves neither."""
    name, limit = f"netdev {TABLE} throttle-trial", f"limit netdev {TABLE} throttle-trial"
    return (
        f"add table netdev {TABLE}\nadd map {name} {{ type iface_index : limit; }}\nadd chain {name}\n"
        f"add rule {name} limit name iif map @throttle-trial drop\nadd {limit} {{ rate over 1000 bytes/second; }}\n"
        f"flush chain {name}\ndelete chain {name}\ndelete map {name}\ndelete {limit}\n"
    )


def limits(vm_id: int, in_bits: int, out_bits: int) -> str:
    """Text that makes a VM's limit objects; repeated it changes nothing. Rates are in bits per second."""
    return "".join(
        f"add limit netdev {TABLE} {limit_of(vm_id, way, rate)}"
        f" {{ rate over {rate // 8} bytes/second burst {BURST} bytes; }}\n"
        for way, rate in zip(WAYS, (in_bits, out_bits), strict=True)
    )


def lead(way: str, index: int, limit: str) -> str:
    """Text that leads a vif, which has no throttle yet, to a limit object."""
    return f'add element netdev {TABLE} throttle-{way} {{ {index} : "{limit}" }}\n'


def fasten(index: int, vm_id: int, in_bits: int, out_bits: int) -> str:
    """Text that throttles a new vif with the limit objects of its VM, which it makes."""
    rates = zip(WAYS, (in_bits, out_bits), strict=True)
    return limits(vm_id, in_bits, out_bits) + "".join(
        lead(way, index, limit_of(vm_id, way, rate)) for way, rate in rates
    )


def loosen(way: str, indexes: Iterable[int]) -> str:
    """Text that ends the throttle of these vifs in one direction."""
    listed = ", ".join(map(str, indexes))
    return f"delete element netdev {TABLE} throttle-{way} {{ {listed} }}\n" if listed else ""


def drop_limits(names: Iterable[str]) -> str:
    """Text that deletes limit objects to which no map leads."""
    return "".join(f"delete limit netdev {TABLE} {name}\n" for name in names)

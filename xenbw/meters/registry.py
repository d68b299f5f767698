"""All meters, one line each. [meter] source names a meter, or "auto"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from xenbw.meters.counters import KernelMeter, Meter, XentopMeter
from xenbw.meters.nft import NftMeter
from xenbw.nft.chains import Chains
from xenbw.nft.netlink import Table
from xenbw.nft.quotas import Quotas
from xenbw.runner import Runner


@dataclass(frozen=True)
class Means:
    """What meters work with. interval: seconds between runs of xentop. owner_of: see XentopMeter."""

    table: Table
    chains: Chains
    quotas: Quotas
    run: Runner
    owner_of: Callable[[str], tuple[str, int] | None]
    interval: float


REGISTRY: Mapping[str, Callable[[Means], Meter]] = {
    "nft": lambda means: NftMeter(means.table, means.chains, means.quotas, KernelMeter()),
    "kernel": lambda _: KernelMeter(),
    "xentop": lambda means: XentopMeter(means.run, means.owner_of, means.interval),
}
# The kernel's own counters work on every host.
_FALLBACK = "kernel"
_BEST = "nft"


def choose(source: str, means: Means) -> tuple[Meter, str]:
    """The meter that [meter] source names, and "". If it cannot work, the kernel's, and why."""
    meter = REGISTRY[_BEST if source == "auto" else source](means)
    why_not = meter.probe()
    return (meter, "") if why_not is None else (REGISTRY[_FALLBACK](means), why_not)

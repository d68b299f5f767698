"""All blocks, one line each, in the order in which they are applied.

The registry is not in the room's __init__, since the hook imports modules of this room at each boot of a VM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from xenbw.blocks import drop, latch_text, link, null_routes, seal, throttle_text, tripwire_text
from xenbw.blocks.block import Block
from xenbw.blocks.drop import Drop
from xenbw.blocks.latch import Latch
from xenbw.blocks.link import Link
from xenbw.blocks.null_routes import NullRoutes
from xenbw.blocks.seal import Opening, Seal
from xenbw.blocks.throttle import Throttle
from xenbw.blocks.tripwire import Tripwire
from xenbw.nft.chains import Chains
from xenbw.nft.quotas import Quotas
from xenbw.nft.tables import Tables


@dataclass(frozen=True)
class Means:
    """What blocks work with. chains: the nft meter uses the same. quotas: read before each count of the VMs' usage.
    run_dir: xenbw's folder under /run."""

    tables: Tables
    chains: Chains
    quotas: Quotas
    run_dir: str


class _Entry(NamedTuple):
    """make: builds the block. undo: shell commands that remove everything the block ever made, "" if it makes nothing;
    the package's removal runs them, when our Python modules are gone. $1: xenbw's folder under /run."""

    make: Callable[[Means], Block]
    undo: str


TRIPWIRE, THROTTLE = "tripwire", "throttle"
"""The names of the blocks that hold VMs to allowances and rates; the others hold VMs that are blocked."""
# The tripwire is first: a VM that may use more now passes it before its seal is gone.
REGISTRY: Mapping[str, _Entry] = {
    TRIPWIRE: _Entry(lambda means: Tripwire(means.tables, means.chains, means.quotas), tripwire_text.UNDO),
    "seal": _Entry(lambda means: Seal(means.chains), seal.UNDO),
    "null routes": _Entry(lambda means: NullRoutes(means.tables), null_routes.UNDO),
    THROTTLE: _Entry(lambda means: Throttle(means.tables, means.chains), throttle_text.UNDO),
    "drop": _Entry(lambda means: Drop(means.run_dir), drop.UNDO),
    "link": _Entry(lambda means: Link(means.run_dir), link.UNDO),
    "latch": _Entry(lambda means: Latch(means.tables, means.run_dir), latch_text.UNDO),
    "opening": _Entry(lambda means: Opening(means.chains), ""),
}


def blocks(means: Means) -> list[Block]:
    """One of each, in order."""
    return [entry.make(means) for entry in REGISTRY.values()]


def undo() -> str:
    """Shell commands that remove all blocks. $1: xenbw's folder under /run.

    `python3 -m xenbw.blocks.registry` prints them."""
    return "".join(f"# {name}\n{entry.undo}\n" for name, entry in REGISTRY.items() if entry.undo)


if __name__ == "__main__":
    print(undo(), end="")  # noqa: T201

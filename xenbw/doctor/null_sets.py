"""Check the null routes in nft's sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing

from xenbw.blocks import null_text
from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.host import Host
from xenbw.nft.pipe import hand_to_nft
from xenbw.nft.tables import Tables

_TOPIC = "firewall"
_WHY = "journalctl -u xenbwd says why"


def look(host: Host) -> Iterator[Finding]:
    """Nothing where null routes are in the legacy tables."""
    if host.method == null_text.METHOD:
        yield judge(int(host.status.get("null_routes", 0)), _held())


def _held() -> dict[str, int]:
    """How many addresses are null-routed in each family's table. Raises MeterError."""
    with closing(Tables(hand_to_nft)) as tables:
        found = {kind: tables.of(number, null_text.TABLE) for kind, number in null_text.FAMILIES.items()}
        return {kind: sum(len(one.elements(name)) for name in null_text.SETS.values()) for kind, one in found.items()}


def judge(wanted: int, held: Mapping[str, int]) -> Finding:
    """wanted: how many addresses xenbwd null-routes. held: how many are in each family's table."""
    count = held["inet"]
    if count < wanted:
        text = f"table inet {null_text.TABLE} has {count} of {wanted} null routes"
        return bad(_TOPIC, text, _WHY)
    if held["bridge"] < count:
        text = "the kernel has no nft tables for bridges: null routes do not stop what bridges forward, the seal does"
        return doubt(_TOPIC, text, "boot a kernel with CONFIG_NF_TABLES_BRIDGE")
    return good(_TOPIC, f"nft has {count} null routes, ahead of the rules of other programs ({null_text.SHOW})")

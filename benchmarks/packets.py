"""The cost of meter, throttles, seals, latches and null routes per packet between two guests on a bridge."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from itertools import product

from benchmarks.figure import Figure
from benchmarks.lane import Lane, addresses
from benchmarks.throttle import throttle
from xenbw.blocks import latch_text
from xenbw.blocks.block import Line, Wanted
from xenbw.blocks.iptables import Iptables
from xenbw.blocks.null_sets import NullSets
from xenbw.blocks.tripwire import Tripwire
from xenbw.nft import nft
from xenbw.nft.chains import Chains
from xenbw.nft.pipe import feed, hand_to_nft
from xenbw.nft.port import Port
from xenbw.nft.quotas import Quotas
from xenbw.nft.tables import Tables
from xenbw.units import FASTEST

_EVER = datetime.min.replace(tzinfo=UTC)
_BATCHES = 50  # of 256 packets: about 40 ms on a bare bridge
_TURNS = 25

# The null routes as they would be with their addresses in a set of ipset(8), or spread over several chains.
_IPSET_RULES = """*filter
:XENBW - [0:0]
-A XENBW -m set --match-set blocked src -j REJECT
-A XENBW -m set --match-set blocked dst -j REJECT
-I FORWARD -j XENBW
COMMIT
"""
_WAYS = 16  # a power of two
_PLAIN = "add table netdev prototype\n"


@dataclass(frozen=True)
class _Case:
    """How a lane is prepared before it is measured. others: how many more interfaces it has."""

    prepare: Callable[[Lane], None]
    others: int = 0


def measure() -> list[Figure]:
    cases = {
        "bare": _Case(lambda lane: None),
        "bare again": _Case(lambda lane: None),
        "a bare counter in the same places": _Case(_count_plainly),
        "metered": _Case(_cover),
        "metered without room for throttles": _Case(_cover_without_throttles),
        "both with a tripwire": _Case(lambda lane: _cover_and_trip(lane, lane.ports)),
        "both among 1000 with one": _Case(lambda lane: _cover_and_trip(lane, lane.ports + lane.others), others=1000),
        "1 other throttled": _Case(lambda lane: _cover_and_throttle(lane, lane.others), others=1),
        "1000 others throttled": _Case(lambda lane: _cover_and_throttle(lane, lane.others), others=1000),
        "throttled": _Case(lambda lane: _cover_and_throttle(lane, lane.ports)),
        "throttled among 1000": _Case(lambda lane: _cover_and_throttle(lane, lane.ports + lane.others), others=1000),
        "1000 others metered": _Case(_cover, others=1000),
        "1 other sealed": _Case(_cover_and_seal, others=1),
        "1000 others sealed": _Case(_cover_and_seal, others=1000),
        "1 other latched": _Case(lambda lane: _cover_and_latch(lane, 1)),
        "1000 others latched": _Case(lambda lane: _cover_and_latch(lane, 1000)),
        "filtered": _Case(lambda lane: lane.filter_bridged(on=True)),
        "10 null routes": _Case(lambda lane: _null_route(lane, 10)),
        "100 null routes": _Case(lambda lane: _null_route(lane, 100)),
        "1000 null routes": _Case(lambda lane: _null_route(lane, 1000)),
        "1 in nft": _Case(lambda lane: _null_sets(lane, 1, filtered=True)),
        "1000 in nft": _Case(lambda lane: _null_sets(lane, 1000, filtered=True)),
        "1000 in nft for bridges": _Case(lambda lane: _null_sets(lane, 1000, filtered=False)),
        "1000 in a set of ipset": _Case(lambda lane: _ipset(lane, 1000)),
        "1000 in a tree": _Case(lambda lane: _tree(lane, 1000)),
    }
    with ExitStack() as stack:
        lanes = {}
        for name, case in cases.items():
            lanes[name] = stack.enter_context(Lane(case.others))
            case.prepare(lanes[name])
        return _figures(_medians(lanes))


def _figures(cost: dict[str, float]) -> list[Figure]:
    """cost: nanoseconds per packet, by lane."""

    def figure(what: str, lane: str, peer: str) -> Figure:
        return Figure(what, cost[lane], "ns", None, (peer, cost[peer]))

    return [
        figure("a packet over a bare bridge, measured again", "bare again", "bare"),
        figure("with both guests metered", "metered", "bare"),
        figure("  the same", "metered", "a bare counter in the same places"),
        figure("  and 1000 other vifs metered", "1000 others metered", "metered"),
        figure("  the same", "metered", "metered without room for throttles"),
        figure("  and both guests with a tripwire", "both with a tripwire", "metered"),
        figure("  and 1000 other VMs with one", "both among 1000 with one", "both with a tripwire"),
        figure("  and 1 other VM throttled", "1 other throttled", "metered"),
        figure("  and 1000 other VMs throttled", "1000 others throttled", "1 other throttled"),
        figure("  and both guests throttled", "throttled", "metered"),
        figure("  and 1000 other VMs throttled too", "throttled among 1000", "throttled"),
        figure("  and 1 other vif sealed", "1 other sealed", "metered"),
        figure("  and 1000 other vifs sealed", "1000 others sealed", "1 other sealed"),
        figure("  and 1 other domain latched", "1 other latched", "metered"),
        figure("  and 1000 other domains latched", "1000 others latched", "1 other latched"),
        figure("with br_netfilter, no rules", "filtered", "bare"),
        figure("  and 10 IPs null-routed", "10 null routes", "filtered"),
        figure("  and 100 IPs null-routed", "100 null routes", "filtered"),
        figure("  and 1000 IPs null-routed", "1000 null routes", "filtered"),
        figure("  and 1 IP null-routed in nft", "1 in nft", "filtered"),
        figure("  and 1000 IPs null-routed in nft", "1000 in nft", "filtered"),
        figure("without br_netfilter, 1000 IPs null-routed in nft", "1000 in nft for bridges", "bare"),
        figure("  the same 1000 in a set of ipset", "1000 in a set of ipset", "filtered"),
        figure(f"  the same 1000 in {_WAYS} chains each way", "1000 in a tree", "filtered"),
    ]


def _medians(lanes: dict[str, Lane]) -> dict[str, float]:
    """Measure in turns, so that a machine that is busy for a while does not favour one lane; on one core, so that no
    other core moves packets."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    rounds: dict[str, list[float]] = {name: [] for name in lanes}
    try:
        for _ in range(_TURNS):
            for name, lane in lanes.items():
                rounds[name].append(lane.run(_BATCHES))
    finally:
        os.sched_setaffinity(0, cores)
    return {name: statistics.median(each) for name, each in rounds.items()}


def _cover(lane: Lane) -> None:
    """Add the meter to both guests and the others."""
    _keep(lane, lane.others)


def _cover_without_throttles(lane: Lane) -> None:
    """Add the meter with rules that count where the shared chains go on to those of throttles."""
    _cover(lane)
    lines = []
    for chain, way, interface in (("to-guest", "in", "oif"), ("from-guest", "out", "iif")):
        lines.append(f"flush chain netdev {nft.TABLE} {chain}")
        counted = f"counter name {interface} map @{way} return"
        rules = (rule.replace(f"goto usage-{way}", counted) for rule in nft.SHARED[chain])
        lines += [f"add rule netdev {nft.TABLE} {chain} {rule}" for rule in rules]
    _feed(lane, ["nft", "-f", "-"], "\n".join([*lines, ""]))


def _cover_and_throttle(lane: Lane, throttled: list[Port]) -> None:
    """Add the meter, and throttle these vifs, each of a VM of its own, to a rate that no packet here exceeds."""
    _cover(lane)
    throttle(
        lane.dom0,
        (port._replace(throttle=(port.domid, FASTEST, FASTEST), vm_id=port.domid) for port in throttled),
    )


def _cover_and_trip(lane: Lane, held: list[Port]) -> None:
    """Add the meter, and a tripwire for each of these vifs, each of a VM of its own, that nothing here reaches."""
    _cover(lane)
    ports = tuple(port._replace(vm_id=port.domid) for port in held)
    lines = tuple(Line(port.domid, "trip", "total", 10**15, 0, _EVER) for port in ports)
    with lane.dom0.entered(), closing(Tables(hand_to_nft)) as tables:
        problems = Tripwire(tables, Chains(tables), Quotas(tables)).apply(Wanted(ports=ports, lines=lines)).problems
    if problems:
        raise RuntimeError(f"no tripwires: {problems}")


def _cover_and_seal(lane: Lane) -> None:
    """Add the meter, and seal the others."""
    _keep(lane, [port._replace(sealed=True) for port in lane.others])


def _cover_and_latch(lane: Lane, count: int) -> None:
    """Add the meter to both guests, and latch others with domids that no guest here has."""
    _cover(lane)
    _feed(lane, ["nft", "-f", "-"], latch_text.foundation(()) + latch_text.latch(range(20_000, 20_000 + count)))


def _keep(lane: Lane, others: list[Port]) -> None:
    with lane.dom0.entered(), closing(Tables(hand_to_nft)) as tables:
        chains, ports = Chains(tables), [*lane.ports, *others]
        chains.keep(ports, chains.look())
    if problems := chains.problems(ports):
        raise RuntimeError(f"not covered: {problems}")


def _null_route(lane: Lane, count: int) -> None:
    lane.filter_bridged(on=True)
    with lane.dom0.entered():
        Iptables(4).apply(Wanted({ip_address(address): "somebody" for address in addresses(count)}))


def _null_sets(lane: Lane, count: int, *, filtered: bool) -> None:
    lane.filter_bridged(on=filtered)
    with lane.dom0.entered(), closing(Tables(hand_to_nft)) as tables:
        NullSets(tables).apply(Wanted({ip_address(address): "somebody" for address in addresses(count)}))


def _ipset(lane: Lane, count: int) -> None:
    lane.filter_bridged(on=True)
    members = "".join(f"add blocked {address}\n" for address in addresses(count))
    _feed(lane, ["ipset", "restore"], "create blocked hash:ip\n" + members)
    _feed(lane, ["iptables-legacy-restore", "--noflush"], _IPSET_RULES)


def _tree(lane: Lane, count: int) -> None:
    """The null routes spread over chains by the last bits of their addresses, which iptables matches with a mask."""
    lane.filter_bridged(on=True)
    lines = ["*filter", ":XENBW - [0:0]"]
    for side, way in product("sd", range(_WAYS)):
        lines += [f":XENBW-{side}{way} - [0:0]", f"-A XENBW -{side} 0.0.0.{way}/0.0.0.{_WAYS - 1} -j XENBW-{side}{way}"]
    for side, address in product("sd", addresses(count)):
        way = int(address.rpartition(".")[2]) % _WAYS
        lines.append(f"-A XENBW-{side}{way} -{side} {address} -j REJECT")
    lines += ["-I FORWARD -j XENBW", "COMMIT", ""]
    _feed(lane, ["iptables-legacy-restore", "--noflush"], "\n".join(lines))


def _count_plainly(lane: Lane) -> None:
    _feed(lane, ["nft", "-f", "-"], _PLAIN + "".join(map(_plain, lane.ports)))


def _plain(port: Port) -> str:
    chains = ((hook, f"prototype {port.interface.replace('.', '-')}-{hook}") for hook in ("ingress", "egress"))
    return "".join(
        f'add chain netdev {chain} {{ type filter hook {hook} device "{port.interface}" priority 0; }}\n'
        f"add rule netdev {chain} counter\n"
        for hook, chain in chains
    )


def _feed(lane: Lane, argv: list[str], text: str) -> None:
    with lane.dom0.entered():
        said = feed(argv, text.encode("ascii"), {})
        if said is not None:
            raise RuntimeError(f"{argv[0]} refuses the rules: {said}")

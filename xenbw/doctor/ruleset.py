"""Check the nftables ruleset: rules that carry packets past xenbw's, and stray null routes that nothing removes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from xenbw.blocks.restore import CHAIN, HOOKED
from xenbw.doctor import legacy
from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.host import Host
from xenbw.errors import XenbwError
from xenbw.nft import nft
from xenbw.runner import Runner

_TOPIC = "iptables"
# The tables that iptables-nft and ip6tables-nft use.
_FAMILIES = {"ip": "iptables-nft", "ip6": "ip6tables-nft"}
_IPTABLES = frozenset({"filter", "nat", "mangle", "raw", "security"})
_OURS_AT = -300


@dataclass(frozen=True)
class Ruleset:
    """The parts of the ruleset that matter here. strays: families that have a chain XENBW. rules: how many rules the
    tables of iptables-nft have. flowtables: (family, table, name) of flowtables with devices. thieves: (table, chain)
    of netdev chains that forward packets before xenbw's chains see them."""

    strays: tuple[str, ...]
    rules: int
    flowtables: tuple[tuple[str, str, str], ...]
    thieves: tuple[tuple[str, str], ...]


def look(host: Host) -> Iterator[Finding]:
    ruleset = read(host.run)
    foreign = sum(len(legacy.read(version, host.run).foreign) for version in (4, 6))
    yield from judge(ruleset, foreign)


def read(run: Runner) -> Ruleset:
    """The ruleset as nft(8) prints it, without the contents of sets. Raises XenbwError."""
    answer = run(["nft", "--json", "--terse", "list", "ruleset"], timeout=20)
    if answer.status != 0:
        raise XenbwError(f"nft list ruleset: exit status {answer.status}", "run it as root to see why")
    return parse(json.loads(answer.stdout or b"{}").get("nftables", []))


def parse(objects: list[dict[str, Any]]) -> Ruleset:
    """The parts that matter here of nft's JSON (libnftables-json(5))."""
    chains = [entry["chain"] for entry in objects if "chain" in entry]
    rules = [entry["rule"] for entry in objects if "rule" in entry]
    flowtables = [entry["flowtable"] for entry in objects if "flowtable" in entry]
    ahead = {
        (chain["table"], chain["name"])
        for chain in chains
        if chain["family"] == "netdev" and chain.get("hook") == "ingress" and chain.get("prio", 0) <= _OURS_AT
    }
    return Ruleset(
        tuple(chain["family"] for chain in chains if chain["name"] == CHAIN and chain["family"] in _FAMILIES),
        sum(rule["family"] in _FAMILIES and rule["table"] in _IPTABLES for rule in rules),
        tuple((flow["family"], flow["table"], flow["name"]) for flow in flowtables if flow.get("dev")),
        tuple(
            sorted(
                {
                    (rule["table"], rule["chain"])
                    for rule in rules
                    if rule["family"] == "netdev" and rule["table"] != nft.TABLE and _forwards(rule)
                }
                & ahead
            )
        ),
    )


def _forwards(rule: Mapping[str, Any]) -> bool:
    return any("fwd" in expression for expression in rule.get("expr", ()) if isinstance(expression, dict))


def judge(ruleset: Ruleset, foreign: int) -> list[Finding]:
    """foreign: how many rules of other programs the legacy tables have."""
    found = [_stray(family) for family in dict.fromkeys(ruleset.strays)]
    for table, chain in ruleset.thieves:
        fix = f"give that chain a priority above {_OURS_AT}"
        text = f"nft chain {chain} of table {table} forwards packets before xenbw's chains see them"
        found.append(bad("firewall", text, fix))
    for family, table, name in ruleset.flowtables:
        found.append(
            doubt(
                "firewall",
                f"nft flowtable {name} of table {family} {table} carries connections past FORWARD: a null route does"
                " not stop connections that it already carries; the seal does",
                "keep guests' traffic out of it (a flow statement for other interfaces only)",
            )
        )
    if ruleset.rules and foreign:
        found.append(
            doubt(
                _TOPIC,
                f"both iptables-nft ({ruleset.rules} rules) and iptables-legacy ({foreign} rules that are not xenbw's)"
                " are in use: packets have to pass both, and iptables -S shows only one of them",
                "move the rules of iptables-legacy over to iptables-nft (iptables-legacy-save shows them)",
            )
        )
    if not any(finding.topic == _TOPIC for finding in found):
        found.append(good(_TOPIC, "the rules of other programs are in the legacy tables or in nft's, not in both"))
    return found


def _stray(family: str) -> Finding:
    command = _FAMILIES[family]
    undo = "; ".join([*(f"{command} -D {chain} -j {CHAIN}" for chain in HOOKED), f"{command} -F {CHAIN}"])
    return bad(
        _TOPIC,
        f"{command} has a chain {CHAIN}, which xenbw never adds there, but a restored file does: the addresses in it"
        " stay blocked after the VM is lifted",
        f"{undo}; {command} -X {CHAIN}",
    )

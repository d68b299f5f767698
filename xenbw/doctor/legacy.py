"""The legacy iptables' filter table, as iptables-legacy-save tells it, and which of its rules let pass what a null
route would stop."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from xenbw.blocks.restore import ALLOWED, CHAIN, HOOKED
from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.host import Host
from xenbw.runner import Runner

_TOPIC = "firewall"
_ASKED = {4: "iptables-legacy-save", 6: "ip6tables-legacy-save"}
# Which tables there are by now. Asking iptables-legacy itself would put them there.
_KNOWN = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}
# Targets after which the rest of the table does not see the packet, though it goes on (iptables-extensions(8); what
# a program takes from its queue and accepts goes on behind the table, nf_queue.c in linux).
_PASSING = frozenset({"ACCEPT", "NFQUEUE", "QUEUE"})
_LOOPBACK = (("-i", "lo"), ("-o", "lo"))


@dataclass(frozen=True)
class Rule:
    """A rule as iptables-save writes it. goes: it does not come back to where it was called from (-g)."""

    text: str
    words: tuple[str, ...]
    target: str
    goes: bool
    loopback: bool


@dataclass(frozen=True)
class Table:
    """policies: of the built-in chains. rules: of every chain, in order."""

    policies: Mapping[str, str]
    rules: Mapping[str, tuple[Rule, ...]]

    @property
    def foreign(self) -> list[str]:
        """The rules that are none of ours."""
        return [
            rule.text for chain, rules in self.rules.items() if chain != CHAIN for rule in rules if rule.target != CHAIN
        ]


def look(host: Host) -> Iterator[Finding]:
    wanted = int(host.status.get("null_routes", 0)) > 0
    tables = {version: read(version, host.run) for version in (4, 6)}
    found = [finding for version in (4, 6) for finding in judge(version, tables[version])]
    if wanted and not any(CHAIN in table.rules for table in tables.values()):
        found.append(bad(_TOPIC, "null routes are due, and there are none", "journalctl -u xenbwd says why"))
    if not found:
        found.append(good(_TOPIC, "no rule lets pass what a null route would stop"))
    yield from found


def read(version: int, run: Runner) -> Table:
    """The table of that IP version; an empty one where none was ever made. Raises CommandError, OSError."""
    known = _KNOWN[version]
    if not known.exists() or "filter" not in known.read_text(encoding="ascii").split():
        return parse("")
    return parse(run([_ASKED[version], "-t", "filter"]).stdout.decode(errors="replace"))


def parse(text: str) -> Table:
    """The table in what iptables-save prints."""
    policies: dict[str, str] = {}
    rules: dict[str, list[Rule]] = {}
    for line in text.splitlines():
        if line.startswith(":"):
            name, policy = line[1:].split()[:2]
            rules[name] = []
            if policy != "-":
                policies[name] = policy
        elif line.startswith("-A "):
            rules.setdefault(line.split()[1], []).append(_rule(line))
    return Table(policies, {name: tuple(of) for name, of in rules.items()})


def _rule(line: str) -> Rule:
    try:
        # Between its quotes iptables-save escapes the other kind, too (xtables.c, xtables_save_string).
        words = shlex.split(line.replace("\\'", "'"))
    except ValueError:
        words = line.split()
    pairs = list(pairwise(words))
    jumps = [pair for pair in pairs if pair[0] in ("-j", "-g")]
    flag, target = jumps[-1] if jumps else ("", "")
    negated = any(pair[0] == "!" and pair[1] in ("-i", "-o") for pair in pairs)
    return Rule(line, tuple(words), target, flag == "-g", not negated and any(pair in pairs for pair in _LOOPBACK))


def judge(version: int, table: Table) -> list[Finding]:
    """What stands in the way of the null routes in this table; nothing where there are none."""
    if CHAIN not in table.rules:
        return []
    save = _ASKED[version].removesuffix("-save")
    strangers = [rule for rule in table.rules[CHAIN] if not _ours(rule)]
    found = [_shadow(save, rule, f"stands in {CHAIN}") for rule in strangers]
    for chain in HOOKED:
        rules = table.rules.get(chain, ())
        jumps = [at for at, rule in enumerate(rules) if rule.target == CHAIN]
        if not jumps:
            fix = "systemctl restart xenbwd, and look for what removes it"
            found.append(bad(_TOPIC, f"{save}: {chain} has lost its jump to {CHAIN}: no null route holds there", fix))
            continue
        ahead = [rule for rule in rules[: jumps[0]] if lets_pass(table, chain, rule)]
        found += [_shadow(save, rule, f"stands ahead of the null routes in {chain}") for rule in ahead]
        if not ahead and jumps[0] > 0:
            fix = "systemctl restart xenbwd puts ours first again; look for what puts others there"
            found.append(doubt(_TOPIC, f"{save}: {chain} has other rules ahead of the null routes", fix))
    return found


def _ours(rule: Rule) -> bool:
    """Whether a rule of our chain is a null route, or what [enforce] allow lets past one."""
    return rule.target == "REJECT" or (rule.target == "RETURN" and ALLOWED in rule.words)


def _shadow(command: str, rule: Rule, where: str) -> Finding:
    said = f"{command}: a rule {where} and lets blocked VMs' packets pass: {rule.text}"
    return bad(_TOPIC, said, f"{command} -D {shlex.join(rule.words[1:])}")


def lets_pass(table: Table, chain: str, rule: Rule) -> bool:
    """Whether packets of guests can get by this rule of a built-in chain past all that follows it there."""
    if rule.loopback:
        return False
    accepted = table.policies.get(chain) == "ACCEPT"
    if rule.target in _PASSING or (rule.target == "RETURN" and accepted):
        return True
    return rule.target in table.rules and (_accepts(table, rule.target, frozenset({chain})) or (rule.goes and accepted))


def _accepts(table: Table, chain: str, above: frozenset[str]) -> bool:
    """Whether a chain, or one that it calls, can let a packet pass for good."""
    return any(
        not rule.loopback
        and (
            rule.target in _PASSING
            or (
                rule.target in table.rules
                and rule.target not in above
                and _accepts(table, rule.target, above | {chain})
            )
        )
        for rule in table.rules[chain]
    )

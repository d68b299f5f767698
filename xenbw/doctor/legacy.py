"""Check the legacy iptables' filter table, as iptables-legacy-save prints it: which rules let packets pass that a null
route would stop."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from xenbw.blocks.restore import ALLOWED, CHAIN, HOOKED, METHOD, SAVE, TABLES
from xenbw.doctor.finding import Finding, bad, doubt, good
from xenbw.doctor.host import Host
from xenbw.runner import Runner

_TOPIC = "firewall"
# Targets that let a packet go on past the rest of the table (iptables-extensions(8); a packet that a program accepts
# from its queue goes on behind the table, nf_queue.c in linux).
_PASSING = frozenset({"ACCEPT", "NFQUEUE", "QUEUE"})
_LOOPBACK = (("-i", "lo"), ("-o", "lo"))


@dataclass(frozen=True)
class Rule:
    """A rule as iptables-save writes it. goes: it goes to its target without returning (-g)."""

    text: str
    words: tuple[str, ...]
    target: str
    goes: bool
    loopback: bool


@dataclass(frozen=True)
class Table:
    """policies: the policies of the built-in chains. rules: the rules of every chain, in order."""

    policies: Mapping[str, str]
    rules: Mapping[str, tuple[Rule, ...]]

    @property
    def foreign(self) -> list[str]:
        """The rules that are not xenbw's."""
        return [
            rule.text for chain, rules in self.rules.items() if chain != CHAIN for rule in rules if rule.target != CHAIN
        ]


def look(host: Host) -> Iterator[Finding]:
    tables = {version: read(version, host.run) for version in (4, 6)}
    if host.method != METHOD:
        yield from judge_remains(tables)
        return
    wanted = int(host.status.get("null_routes", 0)) > 0
    found = [finding for version in (4, 6) for finding in judge(version, tables[version])]
    if wanted and not any(CHAIN in table.rules for table in tables.values()):
        found.append(bad(_TOPIC, "there should be null routes, and there are none", "journalctl -u xenbwd says why"))
    if not found:
        found.append(good(_TOPIC, "no rule lets packets pass that a null route would stop"))
    yield from found


def judge_remains(tables: Mapping[int, Table]) -> Iterator[Finding]:
    """The findings where null routes are in nft's sets, and none should be in the legacy tables."""
    for version, table in tables.items():
        if CHAIN in table.rules:
            command = SAVE[version].removesuffix("-save")
            text = f"{command} has a chain {CHAIN}, but null routes are in nft: the addresses in it stay blocked"
            yield bad(_TOPIC, text, "systemctl restart xenbwd removes it")


def read(version: int, run: Runner) -> Table:
    """The table of that IP version; an empty one if it does not exist. Raises CommandError, OSError."""
    known = Path(TABLES[version])
    if not known.exists() or "filter" not in known.read_text(encoding="ascii").split():
        return parse("")
    return parse(run([SAVE[version], "-t", "filter"]).stdout.decode(errors="replace"))


def parse(text: str) -> Table:
    """The table from the output of iptables-save."""
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
    return Table(policies, {name: tuple(in_chain) for name, in_chain in rules.items()})


def _rule(line: str) -> Rule:
    try:
        # Between double quotes iptables-save escapes single quotes too (xtables.c, xtables_save_string).
        words = shlex.split(line.replace("\\'", "'"))
    except ValueError:
        words = line.split()
    pairs = list(pairwise(words))
    jumps = [pair for pair in pairs if pair[0] in ("-j", "-g")]
    flag, target = jumps[-1] if jumps else ("", "")
    negated = any(pair[0] == "!" and pair[1] in ("-i", "-o") for pair in pairs)
    return Rule(line, tuple(words), target, flag == "-g", not negated and any(pair in pairs for pair in _LOOPBACK))


def judge(version: int, table: Table) -> list[Finding]:
    """The findings about rules that bypass the null routes of this table; none if it has no null routes."""
    if CHAIN not in table.rules:
        return []
    save = SAVE[version].removesuffix("-save")
    strangers = [rule for rule in table.rules[CHAIN] if not _ours(rule)]
    found = [_shadow(save, rule, f"is in {CHAIN}") for rule in strangers]
    for chain in HOOKED:
        rules = table.rules.get(chain, ())
        jumps = [at for at, rule in enumerate(rules) if rule.target == CHAIN]
        if not jumps:
            fix = "systemctl restart xenbwd, and find the program that removes it"
            found.append(bad(_TOPIC, f"{save}: {chain} has lost its jump to {CHAIN}: no null route holds there", fix))
            continue
        ahead = [rule for rule in rules[: jumps[0]] if lets_pass(table, chain, rule)]
        found += [_shadow(save, rule, f"comes before the null routes in {chain}") for rule in ahead]
        if not ahead and jumps[0] > 0:
            fix = "systemctl restart xenbwd puts the null routes first again; find the program that adds the others"
            found.append(doubt(_TOPIC, f"{save}: {chain} has other rules before the null routes", fix))
    return found


def _ours(rule: Rule) -> bool:
    """Whether a rule of chain XENBW is a null route, or an exception of [enforce] allow."""
    return rule.target == "REJECT" or (rule.target == "RETURN" and ALLOWED in rule.words)


def _shadow(command: str, rule: Rule, where: str) -> Finding:
    text = f"{command}: a rule {where} and lets blocked VMs' packets pass: {rule.text}"
    return bad(_TOPIC, text, f"{command} -D {shlex.join(rule.words[1:])}")


def lets_pass(table: Table, chain: str, rule: Rule) -> bool:
    """Whether this rule of a built-in chain lets packets of guests skip all rules after it."""
    if rule.loopback:
        return False
    accepted = table.policies.get(chain) == "ACCEPT"
    if rule.target in _PASSING or (rule.target == "RETURN" and accepted):
        return True
    return rule.target in table.rules and (_accepts(table, rule.target, frozenset({chain})) or (rule.goes and accepted))


def _accepts(table: Table, chain: str, above: frozenset[str]) -> bool:
    """Whether a chain, or a chain that it calls, can accept a packet finally."""
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

"""Which rules really bypass a null route, in the text that iptables-legacy-save prints."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from xenbw.allow import Exceptions
from xenbw.blocks import restore
from xenbw.doctor import legacy, null_sets, ruleset, saved
from xenbw.doctor.finding import Level
from xenbw.doctor.ruleset import Ruleset
from xenbw.doctor.saved import Kind, Saved

NULL_ROUTE = '-A XENBW -s 192.0.2.9/32 -m comment --comment "xenbw: web1" -j REJECT --reject-with icmp-port-unreachable'
JUMPS = {"INPUT": "-A INPUT -j XENBW", "OUTPUT": "-A OUTPUT -j XENBW", "FORWARD": "-A FORWARD -j XENBW"}


def table(*ahead: str, chains: str = "", policy: str = "ACCEPT", own: str = NULL_ROUTE, without: str = "") -> str:
    """A filter table with null routes; `ahead`: rules of FORWARD before the jump to the null routes."""
    jumps = [jump for chain, jump in JUMPS.items() if chain != without]
    policies = "".join(f":{chain} {policy} [0:0]\n" for chain in JUMPS)
    rules = "\n".join([*ahead, *jumps, own])
    return f"*filter\n{policies}:XENBW - [0:0]\n{chains}{rules}\nCOMMIT\n"


def texts(save: str, version: int = 4) -> list[tuple[Level, str]]:
    return [(finding.level, finding.text) for finding in legacy.judge(version, legacy.parse(save))]


def shadowed(save: str) -> bool:
    return any(level is Level.FAIL for level, _ in texts(save))


def test_jumps_that_come_first_pass() -> None:
    assert texts(table()) == []


def test_a_rule_that_accepts_before_the_null_routes_is_named_with_the_command_to_delete_it() -> None:
    rule = r'-A FORWARD -m comment --comment "it\'s $(touch pwned)" -j ACCEPT'
    (finding,) = legacy.judge(6, legacy.parse(table(rule)))
    assert finding.level is Level.FAIL
    assert rule in finding.text
    words = ["-D", "FORWARD", "-m", "comment", "--comment", "it's $(touch pwned)", "-j", "ACCEPT"]
    assert finding.fix == f"ip6tables-legacy {shlex.join(words)}"


@pytest.mark.parametrize(
    "rule",
    [
        "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -j NFQUEUE --queue-num 0",
        "-A FORWARD -s 10.0.0.0/8 -j RETURN",
        "-A FORWARD ! -i lo -j ACCEPT",
    ],
)
def test_a_rule_after_which_a_packet_skips_the_table_and_goes_on_bypasses_null_routes(rule: str) -> None:
    assert shadowed(table(rule))


@pytest.mark.parametrize(
    "rule",
    [
        "-A FORWARD -j LOG",
        "-A FORWARD -s 10.0.0.0/8 -j DROP",
        "-A FORWARD -j REJECT --reject-with icmp-port-unreachable",
        "-A FORWARD",
        "-A INPUT -i lo -j ACCEPT",
        "-A OUTPUT -o lo -j ACCEPT",
    ],
)
def test_a_rule_that_lets_no_guest_s_packet_pass_bypasses_nothing(rule: str) -> None:
    assert not shadowed(table(rule))


def test_foreign_rules_before_the_null_routes_are_a_warning_even_if_they_let_nothing_pass() -> None:
    assert [level for level, _ in texts(table("-A FORWARD -j LOG"))] == [Level.WARN]


def test_a_rule_after_the_null_routes_does_not_matter() -> None:
    assert texts(table(own=f"-A FORWARD -j ACCEPT\n{NULL_ROUTE}")) == []


def test_return_from_a_built_in_chain_passes_only_by_its_policy() -> None:
    assert not shadowed(table("-A FORWARD -j RETURN", policy="DROP"))


def test_a_called_chain_is_followed_to_the_rule_that_accepts() -> None:
    chains = ":one - [0:0]\n:two - [0:0]\n"
    assert shadowed(table("-A FORWARD -j one", "-A one -j two", "-A two -j ACCEPT", chains=chains))
    assert not shadowed(table("-A FORWARD -j one", "-A one -j two", "-A two -j RETURN", chains=chains))


def test_a_chain_reached_by_goto_never_returns_to_the_null_routes() -> None:
    chains = ":one - [0:0]\n"
    assert shadowed(table("-A FORWARD -g one", "-A one -j LOG", chains=chains))
    assert not shadowed(table("-A FORWARD -g one", "-A one -j LOG", chains=chains, policy="DROP"))


def test_chains_that_call_each_other_cause_no_endless_loop() -> None:
    chains = ":one - [0:0]\n:two - [0:0]\n"
    assert not shadowed(table("-A FORWARD -j one", "-A one -j two", "-A two -j one", chains=chains))


@pytest.mark.parametrize("chain", JUMPS)
def test_a_missing_jump_is_reported(chain: str) -> None:
    assert [text for _, text in texts(table(without=chain))] == [
        f"iptables-legacy: {chain} has lost its jump to XENBW: no null route holds there"
    ]


def test_a_foreign_rule_among_the_null_routes_is_reported() -> None:
    assert shadowed(table(own=f"-A XENBW -j ACCEPT\n{NULL_ROUTE}"))


def test_exceptions_from_the_configuration_are_not_foreign_rules() -> None:
    allowed = restore.chain_text(4, {"192.0.2.9": "web1"}, Exceptions(["198.51.100.1/32"]), jumps_exist=False).decode()
    assert "-j RETURN" in allowed
    rules = [line for line in allowed.splitlines() if line.startswith("-A XENBW")]
    assert texts(table(own="\n".join(rules))) == []
    assert shadowed(table(own=f"-A XENBW -s 198.51.100.2/32 -j RETURN\n{NULL_ROUTE}"))


def test_a_comment_with_an_odd_quote_is_still_a_rule() -> None:
    assert shadowed(table("-A FORWARD -m comment --comment it's -j ACCEPT"))


def test_without_null_routes_there_is_no_finding() -> None:
    assert texts("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j ACCEPT\nCOMMIT\n") == []


# the tables of nft


def chain(family: str, table: str, name: str, **facts: object) -> dict[str, object]:
    return {"chain": {"family": family, "table": table, "name": name, **facts}}


def rule(family: str, table: str, chain: str, *expressions: object) -> dict[str, object]:
    return {"rule": {"family": family, "table": table, "chain": chain, "expr": list(expressions)}}


def test_a_chain_with_our_name_in_nft_blocks_for_ever() -> None:
    found = ruleset.judge(ruleset.parse([chain("ip6", "filter", "XENBW")]), 0)
    assert [(finding.level, finding.topic) for finding in found] == [(Level.FAIL, "iptables")]
    assert found[0].fix.endswith("ip6tables-nft -F XENBW; ip6tables-nft -X XENBW")


def test_rules_in_both_kinds_of_iptables_are_a_warning() -> None:
    mixed = Ruleset((), rules=3, flowtables=(), thieves=())
    assert [finding.level for finding in ruleset.judge(mixed, 2)] == [Level.WARN]
    assert [finding.level for finding in ruleset.judge(mixed, 0)] == [Level.PASS]
    assert [finding.level for finding in ruleset.judge(Ruleset((), 0, (), ()), 2)] == [Level.PASS]


def test_our_own_table_and_nft_s_other_tables_do_not_count_as_iptables() -> None:
    objects = [rule("netdev", "xenbw", "to-guest", {"fwd": {}}), rule("inet", "firewalld", "filter_FORWARD")]
    assert ruleset.parse(objects) == Ruleset((), 0, (), ())
    assert ruleset.parse([rule("ip", "filter", "FORWARD"), rule("ip", "nat", "POSTROUTING")]).rules == 2


@pytest.mark.parametrize(("priority", "levels"), [(-301, [Level.FAIL]), (0, [])])
def test_a_chain_that_forwards_before_ours_takes_packets_from_them(priority: int, levels: list[Level]) -> None:
    objects = [
        chain("netdev", "shape", "in", hook="ingress", prio=priority, dev="vif1.0"),
        rule("netdev", "shape", "in", {"counter": None}, {"fwd": {"dev": "eth0"}}),
    ]
    found = [finding.level for finding in ruleset.judge(ruleset.parse(objects), 0) if finding.topic == "firewall"]
    assert found == levels


def test_a_flowtable_carries_connections_past_the_null_routes() -> None:
    flow = {"family": "inet", "table": "router", "name": "fast", "hook": "ingress", "prio": 0}
    found = ruleset.judge(ruleset.parse([{"flowtable": {**flow, "dev": ["eth0", "xenbr0"]}}]), 0)
    assert [finding.level for finding in found] == [Level.WARN, Level.PASS]
    assert "flowtable fast of table inet router" in found[0].text
    assert ruleset.parse([{"flowtable": flow}]).flowtables == ()


# null routes in nft


def test_a_chain_in_the_legacy_tables_is_a_remainder_if_null_routes_are_in_nft() -> None:
    tables = {4: legacy.parse(":XENBW - [0:0]\n-A XENBW -j REJECT\n"), 6: legacy.parse("")}
    (finding,) = legacy.judge_remains(tables)
    assert (finding.level, finding.text.partition(":")[0]) == (
        Level.FAIL,
        "iptables-legacy has a chain XENBW, but null routes are in nft",
    )


@pytest.mark.parametrize(
    ("wanted", "held", "level"),
    [
        (2, {"inet": 2, "bridge": 2}, Level.PASS),
        (0, {"inet": 0, "bridge": 0}, Level.PASS),
        (2, {"inet": 1, "bridge": 2}, Level.FAIL),
        (2, {"inet": 2, "bridge": 0}, Level.WARN),
    ],
)
def test_the_sets_must_have_every_null_route(wanted: int, held: dict[str, int], level: Level) -> None:
    assert null_sets.judge(wanted, held).level is level


# saved files


@pytest.mark.parametrize(
    ("path", "text", "kind"),
    [
        ("etc/iptables/rules.v4", "*filter\n:XENBW - [0:0]\n-A INPUT -j XENBW\nCOMMIT\n", Kind.CHAIN),
        ("etc/iptables/rules.v6", "-A FORWARD -j XENBW\n", Kind.CHAIN),
        ("etc/ufw/before.rules", "-A FORWARD -j XENBW\n", Kind.CHAIN),
        ("etc/firewalld/direct.xml", '<rule ipv="ipv4" table="filter" chain="XENBW" priority="0"/>', Kind.CHAIN),
        ("etc/nftables.conf", "table netdev xenbw {\n\tchain v1.0.5-in {\n", Kind.NFT),
        ("etc/nftables.d/guests", "add table netdev xenbw\n", Kind.NFT),
        ("etc/nftables.d/bridge", "table bridge xenbw {\n\tset latched {\n", Kind.LATCH),
        ("etc/nftables.d/inet", "table inet xenbw-null {\n\tset v4 {\n", Kind.NULL),
    ],
)
def test_a_saved_firewall_that_names_our_chains_is_found(tmp_path: Path, path: str, text: str, kind: Kind) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(text)
    assert saved.search(tmp_path) == [Saved(tmp_path / path, kind)]


@pytest.mark.parametrize(
    "text", ["# -A INPUT -j XENBW\n", "-A INPUT -j XENBW-MINE\n", "table ip xenbw {}\n", "table inet xenbw-nulls"]
)
def test_text_that_only_resembles_our_names_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "etc/iptables").mkdir(parents=True)
    (tmp_path / "etc/iptables/rules.v4").write_text(text)
    assert saved.search(tmp_path) == []


def test_a_saved_nft_ruleset_would_leave_no_firewall_at_boot() -> None:
    (finding,) = saved.judge([Saved(Path("/etc/nftables.conf"), Kind.NFT)], to_nft=False)
    assert finding.level is Level.FAIL


def test_a_saved_latch_holds_until_the_daemon_runs() -> None:
    (finding,) = saved.judge([Saved(Path("/etc/nftables.d/bridge"), Kind.LATCH)], to_nft=True)
    assert (finding.level, "until xenbwd corrects that" in finding.text) == (Level.WARN, True)


def test_saved_null_routes_are_worst_if_nothing_removes_them_again() -> None:
    rules = [Saved(Path("/etc/iptables/rules.v4"), Kind.CHAIN)]
    assert [finding.level for finding in saved.judge(rules, to_nft=True)] == [Level.FAIL]
    assert [finding.level for finding in saved.judge(rules, to_nft=False)] == [Level.WARN]
    for_nft = [Saved(Path("/etc/nftables.conf"), Kind.CHAIN)]
    assert [finding.level for finding in saved.judge(for_nft, to_nft=False)] == [Level.FAIL]
    assert [finding.level for finding in saved.judge([], to_nft=True)] == [Level.PASS]

"""Changes that other programs and admins make to the rules of a host, each as a shell script.

`$iptables` is the command they use: of IPv4 or IPv6, legacy or nft. `$vif` is the key of an interface of ours in nft,
`$index` its number. An act that finds nothing to act upon leaves it at that.
"""

from __future__ import annotations

from tests.support.host import Host

COMMANDS = ("iptables-legacy", "ip6tables-legacy", "iptables-nft")

PREPARE = """
for iptables in iptables-legacy ip6tables-legacy iptables-nft; do
    $iptables -A INPUT -p tcp --dport 22 -j ACCEPT
    $iptables -A FORWARD -p tcp --dport 80 -m comment --comment "theirs" -j ACCEPT
    $iptables-save >/run/saved.$iptables
done
"""
"""The rules of other programs before xenbw adds its own, and a copy of them on disk."""

IPTABLES: dict[str, str] = {
    "docker starts": """
        $iptables -N DOCKER-USER || $iptables -F DOCKER-USER
        $iptables -A DOCKER-USER -j RETURN
        $iptables -I FORWARD -j DOCKER-USER""",
    "docker restarts": """
        $iptables -D FORWARD -j DOCKER-USER
        $iptables -N DOCKER-USER
        $iptables -I FORWARD -j DOCKER-USER""",
    "ufw is reloaded": """
        $iptables-restore --noflush <<END
*filter
:ufw-user-input - [0:0]
:ufw-user-forward - [0:0]
-A ufw-user-input -p tcp --dport 443 -j ACCEPT
-A ufw-user-forward -p udp --dport 53 -j ACCEPT
-I INPUT -j ufw-user-input
-I FORWARD -j ufw-user-forward
COMMIT
END""",
    "firewalld is reloaded": """
        nft delete table inet firewalld
        nft -f - <<END
table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state established,related accept
    }
}
END
        $iptables -N FORWARD_direct
        $iptables -I FORWARD 1 -j FORWARD_direct""",
    "a saved file is restored": "$iptables-restore </run/saved.$iptables",
    "a saved file is restored on top": "$iptables-restore --noflush </run/saved.$iptables",
    "a file saved just now is restored": "$iptables-save >/run/now; $iptables-restore </run/now",
    "everything is flushed": "$iptables -F",
    "everything is flushed and deleted": "$iptables -F; $iptables -X",
    "a policy is set": "$iptables -P FORWARD ACCEPT; $iptables -P INPUT ACCEPT",
    "all of INPUT is accepted first": "$iptables -I INPUT 1 -j ACCEPT",
    "all of FORWARD is accepted first": "$iptables -I FORWARD 1 -j ACCEPT",
    "all of OUTPUT is accepted first": "$iptables -I OUTPUT 1 -j ACCEPT",
    "our jump is deleted": "$iptables -D FORWARD -j XENBW",
    "our jumps are moved to the end": """
        for chain in INPUT OUTPUT FORWARD; do $iptables -D $chain -j XENBW && $iptables -A $chain -j XENBW; done""",
    "our chain is flushed": "$iptables -F XENBW",
    "a null route is deleted": "$iptables -D XENBW 1",
    "all is accepted in our chain": "$iptables -I XENBW 1 -j ACCEPT",
}

NFT: dict[str, str] = {
    "the ruleset is flushed": "nft flush ruleset",
    "nftables is reloaded": """
        nft -f - <<END
flush ruleset
table inet filter {
    chain input { type filter hook input priority filter; tcp dport 22 accept; }
    chain forward { type filter hook forward priority filter; accept; }
}
END""",
    "our table is flushed": "nft flush table netdev xenbw",
    "our table is deleted": "nft delete table netdev xenbw",
    "a shared chain is flushed": "nft flush chain netdev xenbw from-guest",
    "all is accepted in a shared chain": "nft insert rule netdev xenbw from-guest accept",
    "an interface's chain is deleted": "nft delete chain netdev xenbw $vif-out",
    "an interface's chain is flushed": "nft flush chain netdev xenbw $vif-out",
    "an interface is taken out of the sealed": "nft delete element netdev xenbw sealed { $index }",
    "the sealed are flushed": "nft flush set netdev xenbw sealed",
}

BY_HAND: dict[str, str] = {
    "a rule of ours is replaced": """
        number=$(nft -a list chain netdev xenbw from-guest | sed -n 's/.*@sealed.*# handle //p')
        nft replace rule netdev xenbw from-guest handle $number accept""",
    "a chain of ours is led elsewhere": """
        number=$(nft -a list chain netdev xenbw $vif-out | sed -n 's/.*jump.*# handle //p')
        nft replace rule netdev xenbw $vif-out handle $number accept""",
}
MISLED: dict[str, str] = {
    "an interface is taken out of the counted": "nft delete element netdev xenbw out { $index }",
    "what an interface sends counts for what it gets": """
        nft delete element netdev xenbw out { $index }
        nft "add element netdev xenbw out { $index : \\"$vif-in\\" }" """,
    "an interface counts for nothing when it is refused": "nft delete element netdev xenbw refused-out { $index }",
}
"""Changes of xenbw's table that no program makes by accident: the same number of rules and chains, with another
meaning; and maps that lead to no counter, or to the wrong one."""


def flush(host: Host) -> None:
    """Flush the rules of all tables."""
    for argv in (["nft", "flush", "ruleset"], ["iptables-legacy", "-F"], ["ip6tables-legacy", "-F"]):
        host.run(argv, check=True)

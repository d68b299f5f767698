"""Debian's firewalls as an admin uses them, and their rules."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from tests.deb import package
from xenbw.blocks.restore import CHAIN, HOOKED
from xenbw.nft import nft

_PACKAGES = Path("/srv/packages")
_COMMANDS = ("iptables", "ip6tables")
_OURS = re.compile(rf"^table (?:netdev|bridge|inet|arp) {nft.TABLE} \{{\n.*?^\}}\n", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Firewall:
    """A firewall's package. unit: its systemd unit. prepare: gives it an admin's rules and leaves it stopped. acts:
    done one after the other from then on, until it is stopped again. prepare and acts are shell lines that end when the
    firewall is done. reloads: whether systemctl can reload it."""

    name: str
    unit: str
    prepare: str
    acts: tuple[str, ...]
    reloads: bool

    def install(self) -> None:
        package.apt("install", *sorted((_PACKAGES / self.name).glob("*.deb")))
        package.run("sh", "-ec", self.prepare)

    def do(self, act: str) -> None:
        # Firewalls give up at once while another program, here xenbwd for some milliseconds, holds iptables' lock; and
        # systemd refuses more than five starts of a unit in ten seconds.
        if package.run("sh", "-ec", act, check=False).returncode:
            time.sleep(1)
            package.run("systemctl", "reset-failed", self.unit, check=False)
            package.run("sh", "-ec", act)

    def purge(self) -> None:
        """Purge the package and all that came with it."""
        package.apt("purge", *(path.name.partition("_")[0] for path in (_PACKAGES / self.name).glob("*.deb")))


# A reload by a signal returns before it is done; firewall-cmd returns when firewalld is done.
_ANSWERED = "firewall-cmd --state"

FIREWALLD = Firewall(
    "firewalld",
    "firewalld.service",
    """
    systemctl stop firewalld
    firewall-offline-cmd --add-port=8080/tcp
    firewall-offline-cmd --direct --add-rule ipv4 filter FORWARD 0 -s 192.0.2.0/24 -j ACCEPT
    firewall-offline-cmd --direct --add-rule ipv6 filter INPUT 0 -s 2001:db8::/32 -j ACCEPT
    """,
    (
        f"systemctl start firewalld; {_ANSWERED}",
        f"systemctl reload firewalld; {_ANSWERED}",
        "firewall-cmd --reload",
        f"systemctl restart firewalld; {_ANSWERED}",
        "systemctl stop firewalld",
    ),
    reloads=True,
)
UFW = Firewall(
    "ufw",
    "ufw.service",
    # Not enabled, its start does nothing; systemd does not stop a unit that it has not started.
    "ufw allow 22/tcp; ufw route allow from 192.0.2.0/24; systemctl start ufw",
    ("ufw --force enable", "ufw reload", "systemctl stop ufw", "systemctl start ufw", "ufw disable"),
    reloads=False,
)
NETFILTER_PERSISTENT = Firewall(
    "iptables-persistent",
    "netfilter-persistent.service",
    """
    for iptables in iptables ip6tables; do
        $iptables -N OWN
        $iptables -A OWN -p udp --dport 53 -j ACCEPT
        $iptables -A INPUT -p tcp --dport 22 -j ACCEPT
        $iptables -A FORWARD -j OWN
    done
    netfilter-persistent save
    netfilter-persistent flush
    """,
    (
        "netfilter-persistent start",
        "netfilter-persistent reload",
        "systemctl stop netfilter-persistent",
        "systemctl start netfilter-persistent",
        "systemctl restart netfilter-persistent",
        "netfilter-persistent flush",
    ),
    reloads=False,
)


def use(variant: str) -> None:
    """Make the command iptables be iptables-nft ("nft", Debian's default) or iptables-legacy ("legacy")."""
    for command in _COMMANDS:
        package.run("update-alternatives", "--set", command, f"/usr/sbin/{command}-{variant}")


def clear() -> None:
    """Delete the rules of all programs."""
    package.run("nft", "flush", "ruleset")
    # In one step: between two steps a daemon may restore its own chain.
    empty = "".join(["*filter\n", *(f":{chain} ACCEPT\n" for chain in HOOKED), "COMMIT\n"])
    for command in _COMMANDS:
        package.run(f"{command}-legacy-restore", "-w", given=empty)


def theirs() -> list[str]:
    """The rules of other programs, in their order."""
    legacy = [package.run(f"{command}-legacy-save", "-t", "filter").stdout for command in _COMMANDS]
    rules = "".join([*legacy, _OURS.sub("", package.run("nft", "-s", "list", "ruleset").stdout)])
    plain = re.sub(r"\[\d+:\d+\]", "", rules)
    return [line for line in plain.splitlines() if CHAIN not in line and not line.startswith("#")]


def jumps_are_first() -> bool:
    """Whether the jump to our chain is the first rule of each legacy chain that has to jump there."""
    saved = [package.run(f"{command}-legacy-save", "-t", "filter").stdout.splitlines() for command in _COMMANDS]
    first = [
        next((rule for rule in rules if rule.startswith(f"-A {chain} ")), "") for rules in saved for chain in HOOKED
    ]
    return first == [f"-A {chain} -j {CHAIN}" for chain in HOOKED] * len(_COMMANDS)

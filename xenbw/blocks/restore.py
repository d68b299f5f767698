"""The null-route chain as text for iptables-legacy-restore: running it takes 3 ms, importing iptc 80."""

from __future__ import annotations

import os

from xenbw.allow import Exceptions
from xenbw.nft.pipe import feed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

METHOD = "iptables"
"""The word for null routes of this kind in xenbw.toml, the over file and the ledger."""
CHAIN = "XENBW"
HOOKED = ("INPUT", "OUTPUT", "FORWARD")
# The comment of rules for networks that blocked VMs may still reach. Comments that name a VM begin with "xenbw:".
ALLOWED = "xenbw allows"
_RETURN = f'-m comment --comment "{ALLOWED}" -j RETURN'
_UNDO = """\
# Asking the command about a table would load it, so the kernel's list of loaded tables is asked.
if grep -qsx filter /proc/net/{kernel} && command -v {command} >/dev/null; then
    for chain in INPUT OUTPUT FORWARD; do
        while {command} -w 5 -D "$chain" -j XENBW 2>/dev/null; do :; done
    done
    if {command} -w 5 -F XENBW 2>/dev/null; then
        {command} -w 5 -X XENBW || true
    fi
fi"""
UNDO = {
    4: _UNDO.format(kernel="ip_tables_names", command="iptables-legacy"),
    6: _UNDO.format(kernel="ip6_tables_names", command="ip6tables-legacy"),
}
"""Shell commands that remove all null routes, by IP version."""
SHOW = {4: f"iptables-legacy -S {CHAIN}", 6: f"ip6tables-legacy -S {CHAIN}"}
"""Shell commands that show the null routes, by IP version."""
REJECT_WITH = {4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"}
_LENGTH = {4: 32, 6: 128}
_LINK = ("fe80::/10", "ff02::/16")
SAVE = {4: "iptables-legacy-save", 6: "ip6tables-legacy-save"}
# The kernel's lists of existing tables. Running iptables-legacy itself would create them.
TABLES = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}
_COMMANDS = {4: "iptables-legacy-restore", 6: "ip6tables-legacy-restore"}
# xt_comment.h: XT_MAX_COMMENT_LEN is 256 with the terminating NUL
_LONGEST = 255
# The lock that all iptables commands take (iptables/xshared.h, XT_LOCK_NAME). iptables-legacy-restore waits for it
# without limit, even with -w 0. So our caller takes it, with a limit, and the command is given /dev/null as its lock.
XTABLES_LOCK = "/run/xtables.lock"
_OWN_LOCK = {"XTABLES_LOCKFILE": os.devnull}


def comment(name: str) -> str:
    """A rule's comment that names the VM. Characters that could end a quoted word or a line, or that python-iptables
    would read back as an option, are shown as `?`."""
    plain = "".join(c if " " <= c <= "~" and c not in "\"\\'" else "?" for c in name).replace(" -", " ?")
    return f"xenbw: {plain}"[:_LONGEST]


def family(address: str) -> int:
    return 6 if ":" in address else 4


_NONE = Exceptions()


def exceptions(version: int, allow: Iterable[str]) -> list[str]:
    """The networks that null routes of a family let through. In IPv6 they include the link's: ip6tables sees bridged
    frames, and neighbours have to find each other. The seal is narrower."""
    found = [network for network in allow if family(network) == version]
    return [*found, *_LINK] if found and version == 6 else found


def chain_text(version: int, addresses: Mapping[str, str], allow: Exceptions = _NONE, *, jumps_exist: bool) -> bytes:
    """Input for `restore --noflush` that in one commit makes the chain exactly these null routes (address -> VM name),
    with exceptions for the networks that a VM is allowed (by its name), and its jumps the first rules. Deleting a
    missing jump would fail the whole input: hence jumps_exist."""
    lines = ["*filter", f":{CHAIN} - [0:0]"]
    for hooked in HOOKED:
        if jumps_exist:
            lines.append(f"-D {hooked} -j {CHAIN}")
        lines.append(f"-I {hooked} 1 -j {CHAIN}")
    for rules in _rules(version, addresses, allow):
        lines += rules
    return "\n".join([*lines, "COMMIT", ""]).encode("ascii")


def _rules(version: int, addresses: Mapping[str, str], allow: Exceptions) -> tuple[list[str], list[str]]:
    """The rules whose order matters, and those that follow them in any order."""
    ordered, others = [], []
    for address, name in sorted(addresses.items()):
        if family(address) == version:
            rejected = _reject(version, address, name)
            if name in allow.own:
                ordered += [*_exempt(version, address, allow.own[name]), *rejected]
            else:
                others += rejected
    # The rules of VMs with exceptions of their own are all written by now; the common exceptions are for the others.
    for network in exceptions(version, allow.common) if others else ():
        ordered += [f"-A {CHAIN} {side} {network} {_RETURN}" for side in ("-s", "-d")]
    return ordered, others


def _exempt(version: int, address: str, allow: Iterable[str]) -> list[str]:
    whole = f"{address}/{_LENGTH[version]}"
    return [
        f"-A {CHAIN} -s {source} -d {target} {_RETURN}"
        for network in exceptions(version, allow)
        for source, target in ((whole, network), (network, whole))
    ]


def _reject(version: int, address: str, name: str) -> list[str]:
    target = f'-m comment --comment "{comment(name)}" -j REJECT --reject-with {REJECT_WITH[version]}'
    return [f"-A {CHAIN} {side} {address}/{_LENGTH[version]} {target}" for side in ("-s", "-d")]


def stands(version: int, addresses: Mapping[str, str], allow: Exceptions, saved: str) -> bool:
    """Whether the output of iptables-legacy-save has exactly this chain and its jumps."""
    lines = saved.splitlines()
    for hooked in HOOKED:
        found, jump = [line for line in lines if line.startswith(f"-A {hooked} ")], f"-A {hooked} -j {CHAIN}"
        if found[:1] != [jump] or jump in found[1:]:
            return False
    found = [line for line in lines if line.startswith(f"-A {CHAIN} ")]
    ordered, others = _rules(version, addresses, allow)
    # The kernel keeps networks in their shortest spelling, and so does the ledger.
    first = len(ordered)
    return found[:first] == ordered and sorted(found[first:]) == sorted(others)


def removal(saved: str) -> bytes:
    """Input for `restore --noflush` that removes the chain and its jumps; empty if there is no chain. saved: the output
    of iptables-legacy-save."""
    lines = saved.splitlines()
    if not any(line.startswith(f":{CHAIN} ") for line in lines):
        return b""
    ours = {f"-A {hooked} -j {CHAIN}": f"-D {hooked} -j {CHAIN}" for hooked in HOOKED}
    jumps = [ours[line] for line in lines if line in ours]
    # A chain to which another program's rule jumps cannot be deleted; without rules it does nothing.
    held = any(f" {flag} {CHAIN}" in line and line not in ours for line in lines for flag in ("-j", "-g"))
    gone = [f"-F {CHAIN}"] if held else [f"-F {CHAIN}", f"-X {CHAIN}"]
    return "\n".join(["*filter", *jumps, *gone, "COMMIT", ""]).encode("ascii")


def write_chain(version: int, addresses: Mapping[str, str], allow: Exceptions = _NONE) -> str | None:
    """Write the chain into the kernel. None if that worked, else iptables' error. The caller holds XTABLES_LOCK."""
    error = restore(version, chain_text(version, addresses, allow, jumps_exist=True))
    if error is not None:
        error = restore(version, chain_text(version, addresses, allow, jumps_exist=False))
    return error


def restore(version: int, text: bytes) -> str | None:
    """Hand iptables-legacy-restore a text. None if that worked, else its error. The caller holds XTABLES_LOCK."""
    return feed([_COMMANDS[version], "--noflush"], text, _OWN_LOCK)

"""The null-route chain as text for iptables-legacy-restore, which takes 3 ms where importing iptc takes 250."""

from __future__ import annotations

import os

from xenbw.pipe import feed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CHAIN = "XENBW"
HOOKED = ("INPUT", "OUTPUT", "FORWARD")
REJECT_WITH = {4: "icmp-port-unreachable", 6: "icmp6-port-unreachable"}
_COMMANDS = {4: "iptables-legacy-restore", 6: "ip6tables-legacy-restore"}
# xt_comment.h: XT_MAX_COMMENT_LEN is 256 with the terminating NUL
_LONGEST = 255
# The lock that all iptables commands take (iptables/xshared.h, XT_LOCK_NAME). iptables-legacy-restore waits for it
# however long it takes, even with -w 0; so the caller takes it, with a limit, and the command is told to take another.
XTABLES_LOCK = "/run/xtables.lock"
_OWN_LOCK = {"XTABLES_LOCKFILE": os.devnull}


def comment(name: str) -> str:
    """A rule's comment that names the VM; what could end a quoted word or a line, or look like an option to who reads
    the rule back (python-iptables), is shown as `?`."""
    plain = "".join(c if " " <= c <= "~" and c not in "\"\\'" else "?" for c in name).replace(" -", " ?")
    return f"xenbw: {plain}"[:_LONGEST]


def family(address: str) -> int:
    return 6 if ":" in address else 4


def chain_text(version: int, addresses: Mapping[str, str], *, jumps_exist: bool) -> bytes:
    """Input for `restore --noflush` that makes the chain exactly these null routes (address -> VM name) and its jumps
    the first rules, in one commit. Deleting a jump that is not there fails the whole input: hence jumps_exist."""
    lines = ["*filter", f":{CHAIN} - [0:0]"]
    for hooked in HOOKED:
        if jumps_exist:
            lines.append(f"-D {hooked} -j {CHAIN}")
        lines.append(f"-I {hooked} 1 -j {CHAIN}")
    for address, name in sorted(addresses.items()):
        if family(address) == version:
            said = f'-m comment --comment "{comment(name)}" -j REJECT --reject-with {REJECT_WITH[version]}'
            lines += [f"-A {CHAIN} {side} {address} {said}" for side in ("-s", "-d")]
    return "\n".join([*lines, "COMMIT", ""]).encode("ascii")


def write_chain(version: int, addresses: Mapping[str, str]) -> bool:
    """Put the chain into the kernel; whether that worked. The caller holds XTABLES_LOCK."""
    return any(_restore(version, chain_text(version, addresses, jumps_exist=known)) for known in (True, False))


def _restore(version: int, text: bytes) -> bool:
    return feed([_COMMANDS[version], "--noflush"], text, _OWN_LOCK)

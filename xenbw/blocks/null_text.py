"""Null routes as text for nft(8): two sets of addresses, whose packets are rejected in one look-up, however many.

The table `inet xenbw-null` does what the chain XENBW does in the legacy tables: its chains come just before the filter
tables of other programs, and what these accept passes them first. The table `bridge xenbw-null` has the same sets for
frames that a bridge forwards and iptables does not see. Both are apart from the tables of the latch, which is removed
as a whole when its last domain is released, and so are these.

The hook uses this at each boot of a blocked VM, so it imports next to nothing.
"""

from __future__ import annotations

from xenbw.blocks.restore import comment, exceptions, family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xenbw.allow import Exceptions

METHOD = "nft"
"""The word for null routes of this kind in xenbw.toml, the over file and the ledger."""
TABLE = "xenbw-null"
FAMILIES = {"inet": 1, "bridge": 7}
"""Numbers of the families, by linux/netfilter.h."""
SETS = {4: "v4", 6: "v6"}
"""The sets of null-routed addresses, by IP version."""
SHOW = f"nft list table inet {TABLE}"
UNDO = f"""\
for family in inet bridge; do
    nft delete table "$family" {TABLE} 2>/dev/null || true
done"""
"""Shell commands that remove all null routes."""
REJECT = "reject with icmpx port-unreachable"
VERDICTS = (REJECT, "drop", "")
"""How the bridge's table refuses a frame, the best first: not every kernel can reject in the bridge family, and some
have no such family; "" is without a table there."""
_HOOKS = ("input", "output", "forward")
# The kernel rejects a bridge's frames where it takes them in, and not where it forwards them (nft_reject_bridge.c). A
# drop is better where it forwards them: what is for dom0, or routed, is then rejected in the other table.
_BRIDGE_HOOKS = {REJECT: ("prerouting",), "drop": ("forward",)}
# Just before the usual priority of filters: 0, for the legacy tables too, and -200 in a bridge.
_PRIORITIES = {"inet": -1, "bridge": -201}
_WORDS, _TYPES = {4: "ip", 6: "ip6"}, {4: "ipv4_addr", 6: "ipv6_addr"}
# Chains of packets from blocked VMs and to them: the VM's own address, and the address of its peer.
_WAYS = {"from": ("saddr", "daddr"), "to": ("daddr", "saddr")}
_SMALLEST = 1024
# nft's own limit on a comment is 128 bytes with the terminating NUL (NFTNL_UDATA_COMMENT_MAXLEN, libnftnl/udata.h).
_LONGEST = 127


def note(name: str) -> str:
    """An element's comment, which names the VM."""
    return comment(name)[:_LONGEST]


def remove() -> str:
    """Text that removes all null routes; they may be missing."""
    return "".join(f"{verb} table {kind} {TABLE}\n" for kind in FAMILIES for verb in ("add", "delete"))


def write(addresses: Mapping[str, str], allow: Exceptions, verdict: str) -> str:
    """Text that makes the null routes exactly these (address -> VM name), whatever was there, in one commit. verdict:
    one of VERDICTS."""
    return remove() + lay(addresses, allow, verdict)


def lay(addresses: Mapping[str, str], allow: Exceptions, verdict: str) -> str:
    """The same where there are no null routes yet: the kernel need not wait for packets in chains that go."""
    parts = []
    owners = sorted((address, name) for address, name in addresses.items() if name in allow.own)
    for kind, refuse in (("inet", REJECT), ("bridge", verdict)) if addresses else ():
        if refuse:
            parts.append(_foundation(kind, refuse, _size(len(addresses))))
            parts += [_own(kind, address, allow.own[name]) for address, name in owners]
            parts += [_ends(kind, addresses, allow), add(kind, addresses)]
    return "".join(parts)


def _size(count: int) -> int:
    """A set's size for so many addresses. With a fixed size the kernel finds an IPv4 address in half the time; a set
    that is full refuses an address, and all is written anew."""
    return max(_SMALLEST, 1 << (2 * count).bit_length())


def put(addresses: Mapping[str, str], allow: Exceptions, apply: Callable[[str], str | None]) -> str | None:
    """Make the null routes exactly these, with the best verdict that nft accepts. None, or nft's error."""
    error = None
    for verdict in VERDICTS:
        error = apply(write(addresses, allow, verdict))
        if error is None:
            break
    return error


def exception_sets(addresses: Mapping[str, str], allow: Exceptions) -> set[str]:
    """The names of all sets and maps with exceptions that `write` may make."""
    own = {f"allowed-{_label(address)}" for address, name in addresses.items() if name in allow.own}
    shared = (f"{word}-{name}" for word in ("allowed", *(f"own-{way}" for way in _WAYS)) for name in SETS.values())
    return {*own, *shared} if allow.common or own else own


def add(kind: str, addresses: Mapping[str, str]) -> str:
    """Text that adds null routes to a family's table."""
    notes = {name: note(name) for name in set(addresses.values())}
    return _elements(
        "add", kind, {address: f'{address} comment "{notes[name]}"' for address, name in addresses.items()}
    )


def drop(kind: str, addresses: Iterable[str]) -> str:
    """Text that deletes null routes from a family's table; they must be there."""
    return _elements("delete", kind, {address: address for address in addresses})


def _elements(verb: str, kind: str, elements: Mapping[str, str]) -> str:
    lines = []
    for version, name in SETS.items():
        listed = ", ".join(text for address, text in elements.items() if family(address) == version)
        lines += [f"{verb} element {kind} {TABLE} {name} {{ {listed} }}\n"] if listed else []
    return "".join(lines)


def _foundation(kind: str, refuse: str, size: int) -> str:
    table = f"{kind} {TABLE}"
    lines = [f"add table {table}"]
    lines += [f"add set {table} {name} {{ type {_TYPES[v]}; size {size}; }}" for v, name in SETS.items()]
    lines += [f"add chain {table} {chain}" for chain in ("refuse", *_WAYS)]
    lines.append(f"add rule {table} refuse {refuse}")
    # First the packets that no null route concerns: one rule is all that they cost. What is accepted here still passes
    # the chains of other programs.
    rules = [f"{_WORDS[v]} saddr != @{name} {_WORDS[v]} daddr != @{name} accept" for v, name in SETS.items()]
    rules += [f"{_WORDS[v]} {own} @{name} jump {way}" for v, name in SETS.items() for way, (own, _) in _WAYS.items()]
    for hook in _HOOKS if kind == "inet" else _BRIDGE_HOOKS[refuse]:
        lines.append(f"add chain {table} {hook} {{ type filter hook {hook} priority {_PRIORITIES[kind]}; }}")
        lines += [f"add rule {table} {hook} {rule}" for rule in rules]
    return "\n".join([*lines, ""])


def _label(address: str) -> str:
    """An address as part of a name, which can have no colon."""
    return address.replace(":", "-")


def _own(kind: str, address: str, allow: Iterable[str]) -> str:
    """Text for an address of a VM that has exceptions of its own."""
    table, version, label = f"{kind} {TABLE}", family(address), _label(address)
    networks = exceptions(version, allow)
    lines = _networks(table, f"allowed-{label}", version, networks)
    for way, (_, peer) in _WAYS.items():
        passes = [f"{_WORDS[version]} {peer} @allowed-{label} return"] if networks else []
        lines.append(f"add chain {table} {way}-{label}")
        lines += [f"add rule {table} {way}-{label} {rule}" for rule in (*passes, "goto refuse")]
        lines.append(f"add map {table} own-{way}-{SETS[version]} {{ type {_TYPES[version]} : verdict; }}")
        lines.append(f"add element {table} own-{way}-{SETS[version]} {{ {address} : goto {way}-{label} }}")
    return "\n".join([*lines, ""])


def _ends(kind: str, addresses: Mapping[str, str], allow: Exceptions) -> str:
    """Text for the rules that packets from blocked VMs, and to them, come to: the exceptions, and the end."""
    table, lines, rules = f"{kind} {TABLE}", list[str](), {way: list[str]() for way in _WAYS}
    for version, word in _WORDS.items():
        common = exceptions(version, allow.common)
        lines += _networks(table, f"allowed-{SETS[version]}", version, common)
        has_own = any(family(address) == version and name in allow.own for address, name in addresses.items())
        for way, (own, peer) in _WAYS.items():
            rules[way] += [f"{word} {own} vmap @own-{way}-{SETS[version]}"] if has_own else []
            rules[way] += [f"{word} {peer} @allowed-{SETS[version]} return"] if common else []
    for way, found in rules.items():
        lines += [f"add rule {table} {way} {rule}" for rule in (*found, "goto refuse")]
    return "\n".join([*lines, ""])


def _networks(table: str, name: str, version: int, networks: Iterable[str]) -> list[str]:
    # A rule with an unnamed set would look different in the kernel each time it is written.
    listed = ", ".join(networks)
    kept = f"add set {table} {name} {{ type {_TYPES[version]}; flags interval; auto-merge; }}"
    return [kept, f"add element {table} {name} {{ {listed} }}"] if listed else []

"""/run/xenbw/over: the blocked VMs and their addresses, for the hook, which needs them even if the ledger cannot be
read and the daemon is dead.

Each line is a list of words separated by tabs; names are backslash-escaped:
`ledger PATH`, `meter NAME`, `protected ADDRESS...`
`vm NAME ADDRESS...`: a blocked VM
`held ADDRESS...`: running VMs in good standing have these addresses, so they are not blocked
`free ADDRESS...`: no VM in good standing has these addresses any more
`allow NETWORK...`: blocked VMs may reach these networks; `allow-vm NAME NETWORK...`: this VM may reach these instead
`throttle NAME ID IN OUT`: a VM that is throttled past its allowance, its row's id, and its rates in bits per second
`tripwire NAME QUOTA LEFT...`: the quota objects that hold a VM's allowance, and how many bytes each had left
`aliased NAME UNTIL`: a VM that used another MAC, which others may remember until then, in seconds since 1970
`null-routes METHOD`: by what addresses are null-routed, `iptables` or `nft`
The daemon writes the whole file. While no daemon runs, hooks append lines, which add to or correct the lines before.
"""

from __future__ import annotations

import os

from xenbw.allow import Exceptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Over:
    """What the file says. blocked: VM name -> its null-routed addresses; protected: addresses or networks; nft: whether
    vifs get nft counters; allow: the networks that blocked VMs may reach; throttled: VM name -> its id, and its rates
    to the guest and from it in bits per second; tripwires: VM name -> quota object -> bytes left; aliased: VM name ->
    until when others may remember another MAC of it, in seconds since 1970; method: by what addresses are null-routed,
    "" if that is not known."""

    __slots__ = (
        "aliased",
        "allow",
        "blocked",
        "held",
        "ledger",
        "method",
        "nft",
        "protected",
        "throttled",
        "tripwires",
    )

    def __init__(self) -> None:
        self.ledger = ""
        self.nft, self.method = True, ""
        self.protected: list[str] = []
        self.allow = Exceptions()
        self.held: set[str] = set()
        self.blocked: dict[str, list[str]] = {}
        self.throttled: dict[str, tuple[int, int, int]] = {}
        self.tripwires: dict[str, dict[str, int]] = {}
        self.aliased: dict[str, int] = {}

    def addresses(self) -> dict[str, str]:
        """Every address that must be null-routed, with its VM's name."""
        return {
            address: name
            for name, addresses in self.blocked.items()
            for address in addresses
            if address not in self.held
        }


_NONE = Exceptions()
_NOT_THROTTLED: Mapping[str, tuple[int, int, int]] = {}
_NO_TRIPWIRES: Mapping[str, Mapping[str, int]] = {}
_NOT_ALIASED: Mapping[str, int] = {}


def escape(name: str) -> str:
    """A name as one word of the file."""
    return name.encode("unicode_escape").decode("ascii")


def unescape(word: str) -> str:
    return word.encode("ascii").decode("unicode_escape")


def _line(kind: str, *words: str) -> str:
    return "\t".join((kind, *words)) + "\n"


def read(path: str) -> Over | None:
    """The file's content, or None when there is no file of a daemon or it cannot be read. A damaged line is ignored."""
    over = Over()
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                try:
                    _take(over, *line.rstrip("\n").split("\t"))
                except ValueError:
                    pass  # a damaged line must not release the VMs on the other lines
    except OSError:
        return None
    return over if over.ledger else None


def _take(over: Over, kind: str, *words: str) -> None:
    if kind == "ledger" and words:
        over.ledger = unescape(words[0])
    elif kind == "meter":
        over.nft = words == ("nft",)
    elif kind == "null-routes" and words:
        over.method = words[0]
    elif kind == "protected":
        over.protected += words
    elif kind == "allow":
        over.allow.common += words
    elif kind == "allow-vm" and words:
        over.allow.own.setdefault(unescape(words[0]), []).extend(words[1:])
    elif kind == "held":
        over.held.update(words)
    elif kind == "free":
        over.held.difference_update(words)
    elif kind == "throttle" and len(words) == 4:
        vm_id, in_bits, out_bits = map(int, words[1:])
        over.throttled[unescape(words[0])] = (vm_id, in_bits, out_bits)
    elif kind == "tripwire" and len(words) % 2:
        over.tripwires[unescape(words[0])] = dict(zip(words[1::2], map(int, words[2::2]), strict=True))
    elif kind == "aliased" and len(words) == 2:
        over.aliased[unescape(words[0])] = int(words[1])
    elif kind == "vm" and words:
        over.blocked.setdefault(unescape(words[0]), []).extend(words[1:])


def write(
    path: str,
    ledger: str,
    protected: Iterable[str],
    held: Iterable[str],
    blocked: Mapping[str, Iterable[str]],
    meter: str = "nft",
    allow: Exceptions = _NONE,
    throttled: Mapping[str, tuple[int, int, int]] = _NOT_THROTTLED,
    tripwires: Mapping[str, Mapping[str, int]] = _NO_TRIPWIRES,
    method: str = "iptables",
    aliased: Mapping[str, int] = _NOT_ALIASED,
) -> None:
    """Replace the file in one step. Raises OSError."""
    text = _line("ledger", escape(ledger)) + _line("meter", meter) + _line("null-routes", method)
    text += _line("protected", *protected) + _line("held", *held) + _line("allow", *allow.common)
    text += "".join(_line("allow-vm", escape(name), *networks) for name, networks in sorted(allow.own.items()))
    text += "".join(_line("vm", escape(name), *addresses) for name, addresses in sorted(blocked.items()))
    text += "".join(_line("throttle", escape(name), *map(str, limit)) for name, limit in sorted(throttled.items()))
    for name, quotas in sorted(tripwires.items()):
        text += _line("tripwire", escape(name), *(f"{quota}\t{left}" for quota, left in quotas.items()))
    text += "".join(_line("aliased", escape(name), str(until)) for name, until in sorted(aliased.items()))
    fresh = f"{path}.{os.getpid()}"
    # The file names customers, so only root may read it.
    with open(fresh, "w", encoding="ascii", opener=for_root) as file:
        file.write(text)
    os.replace(fresh, path)


def for_root(path: str, flags: int) -> int:
    """An opener for open(): only root may read the file that it creates."""
    return os.open(path, flags, 0o600)


def blocked_line(name: str, addresses: Iterable[str]) -> str:
    """A line for a blocked VM."""
    return _line("vm", escape(name), *addresses)


def held_line(addresses: Iterable[str]) -> str:
    """A line for addresses that a VM in good standing has."""
    return _line("held", *addresses)


def free_line(addresses: Iterable[str]) -> str:
    """A line for addresses that a VM in good standing had until now."""
    return _line("free", *addresses)


def append(path: str, line: str) -> None:
    """Add a line to a daemon's file in one write, so that hooks that run at once do not mix their lines. Raises
    OSError."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, line.encode("ascii"))
    finally:
        os.close(file)

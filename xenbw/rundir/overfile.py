"""/run/xenbw/over: who is blocked, with their addresses, for the hook, which must know it with the ledger unreadable
and the daemon dead.

Lines of words separated by tabs: `ledger PATH`, `protected ADDRESS...`, `held ADDRESS...` (by running VMs in good
standing), `free ADDRESS...` (held no more), `vm NAME ADDRESS...`, `meter NAME`; names are backslash-escaped. The daemon
writes it whole; a hook appends what it knows better while no daemon runs. Lines add up; an address that is held is not
blocked. `allow NETWORK...`: what blocked VMs may reach all the same; `allow-vm NAME NETWORK...`: what that one may,
instead.
"""

from __future__ import annotations

import os

from xenbw.allow import Exceptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Over:
    """What the file says. blocked: VM name -> its null-routed addresses; protected: addresses or networks; nft: whether
    our counters are to stand on the vifs; allow: networks that blocked VMs may reach, by their names."""

    __slots__ = ("allow", "blocked", "held", "ledger", "nft", "protected")

    def __init__(self) -> None:
        self.ledger = ""
        self.nft = True
        self.protected: list[str] = []
        self.allow = Exceptions()
        self.held: set[str] = set()
        self.blocked: dict[str, list[str]] = {}

    def addresses(self) -> dict[str, str]:
        """Every address to be null-routed, with its VM's name."""
        return {
            address: name
            for name, addresses in self.blocked.items()
            for address in addresses
            if address not in self.held
        }


_NONE = Exceptions()


def escape(name: str) -> str:
    """A name as one word on one line."""
    return name.encode("unicode_escape").decode("ascii")


def unescape(word: str) -> str:
    return word.encode("ascii").decode("unicode_escape")


def _line(kind: str, *words: str) -> str:
    return "\t".join((kind, *words)) + "\n"


def read(path: str) -> Over | None:
    """The file's content, or None when there is none by a daemon that can be read. A line that is not understood is
    passed over."""
    over = Over()
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                try:
                    _take(over, *line.rstrip("\n").split("\t"))
                except ValueError:
                    pass  # one line that is damaged frees none of the others
    except OSError:
        return None
    return over if over.ledger else None


def _take(over: Over, kind: str, *words: str) -> None:
    if kind == "ledger" and words:
        over.ledger = unescape(words[0])
    elif kind == "meter":
        over.nft = words == ("nft",)
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
) -> None:
    """Replace the file in one step. Raises OSError."""
    text = _line("ledger", escape(ledger)) + _line("meter", meter)
    text += _line("protected", *protected) + _line("held", *held) + _line("allow", *allow.common)
    text += "".join(_line("allow-vm", escape(name), *networks) for name, networks in sorted(allow.own.items()))
    text += "".join(_line("vm", escape(name), *addresses) for name, addresses in sorted(blocked.items()))
    fresh = f"{path}.{os.getpid()}"
    # It names customers: root's eyes only, whoever writes it.
    with open(fresh, "w", encoding="ascii", opener=for_root) as file:
        file.write(text)
    os.replace(fresh, path)


def for_root(path: str, flags: int) -> int:
    """An opener that lets nobody else read what it makes."""
    return os.open(path, flags, 0o600)


def blocked_line(name: str, addresses: Iterable[str]) -> str:
    """What to append for a blocked VM."""
    return _line("vm", escape(name), *addresses)


def held_line(addresses: Iterable[str]) -> str:
    """What to append for addresses that a VM in good standing holds."""
    return _line("held", *addresses)


def free_line(addresses: Iterable[str]) -> str:
    """What to append for addresses that a VM in good standing held until now."""
    return _line("free", *addresses)


def append(path: str, line: str) -> None:
    """Add a line to a daemon's file, as one write, so that hooks side by side do not mix theirs. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, line.encode("ascii"))
    finally:
        os.close(file)

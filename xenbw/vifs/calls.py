"""Calls of the hook that it could not record itself, as the daemon records them."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from xenbw.ledger import sound
from xenbw.model import Kind
from xenbw.rundir.pending import words


def recordable(path: Path) -> dict[str, str]:
    """The same, of a call that can be recorded: what comes into the ledger has to come out of it again. Raises OSError,
    KeyError or ValueError for what no hook wrote."""
    call = words(path)
    Kind(call["kind"])
    numbers = [int(call[key]) for key in ("domid", "devid", "ifindex")]
    if not all(sound.whole(number, beyond=2**31) for number in numbers):
        raise ValueError(f"numbers out of range: {numbers}")
    if not sound.time(call["at"]):
        raise ValueError(f"not a time: {call['at']!r}")
    for word in call["ips"].split():
        ip_address(word)
    if not all(sound.text(value) for value in call.values()):
        raise ValueError("not a text")
    return call

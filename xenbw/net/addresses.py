"""The addresses in a vif's `ip=`. Light on purpose: the hook pays for every import."""

from __future__ import annotations

import _socket  # socket without the enums and selectors around it, which take 5 ms to import

# A shorter prefix names a network that is routed to the guest, not the guest's own address; blocking its first
# address would be a guess, blocking all of it could cut off others.
_SHORTEST = {_socket.AF_INET: 24, _socket.AF_INET6: 48}


def parse(text: str) -> tuple[list[str], list[str]]:
    """(addresses in canonical form, words that are none) from text as vif scripts take it: separated by spaces, each
    perhaps with a prefix length. `10.50.0.9/24` means the one address 10.50.0.9."""
    addresses: list[str] = []
    others: list[str] = []
    for word in text.replace(",", " ").split():
        bare, slash, length = word.partition("/")
        family = _socket.AF_INET6 if ":" in bare else _socket.AF_INET
        try:
            address = _socket.inet_ntop(family, _socket.inet_pton(family, bare))
        except OSError:
            others.append(word)
            continue
        if slash and not (length.isdecimal() and int(length) >= _SHORTEST[family]):
            others.append(word)
        elif address not in addresses:
            addresses.append(address)
    return addresses, others

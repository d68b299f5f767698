"""The addresses in a vif's `ip=`, for all who read one: hook, daemon and command line. Light on purpose: the hook pays
for every import."""

from __future__ import annotations

import _socket  # socket without the enums and selectors around it, which take 5 ms to import

# A shorter prefix is a range that the guest may use, or a network that is routed to it, and not its own address.
# Blocking its first address would be a guess, blocking all of it could cut off others.
_SHORTEST = {_socket.AF_INET: 24, _socket.AF_INET6: 48}
# With so many bits, both addresses of a network are hosts' (RFC 3021, RFC 6164).
_POINT_TO_POINT = {_socket.AF_INET: 31, _socket.AF_INET6: 127}
_LONGEST = {_socket.AF_INET: 32, _socket.AF_INET6: 128}
# inet_pton takes no address that is longer (INET6_ADDRSTRLEN); a guest's admin may have written a megabyte.
_MAX_LENGTH = 64
# More than any card has; each of them is a rule in the kernel.
_MOST = 256
_QUOTES = "\"'"


def parse(text: str) -> tuple[list[str], list[str]]:
    """(addresses in canonical form, words of which none was taken) from text as vif scripts take it: separated by
    spaces, each perhaps with a prefix length, each or all perhaps in quotes.

    `10.50.0.9/24` means the one address 10.50.0.9. Of a network (`203.0.113.8/29`), a range (`10.0.0.1/8`) and an
    address with a netmask nothing is taken: `why` tells what is wrong with a word.
    """
    addresses: dict[str, None] = {}
    others: list[str] = []
    for word in text.replace(",", " ").split():
        address, fault = _read(word.strip(_QUOTES))
        if fault or len(addresses) == _MOST:
            others.append(word)
        else:
            addresses[address] = None
    return list(addresses), others


def why(word: str) -> str:
    """What is wrong with a word of `ip=` that `parse` did not take: the end of a sentence."""
    return _read(word.strip(_QUOTES))[1] or f"is one address more than the {_MOST} that are taken"


def _read(word: str) -> tuple[str, str]:
    """(the address in canonical form, what is wrong with it): one of the two is ""."""
    bare, slash, length = word.partition("/")
    family = _socket.AF_INET6 if ":" in bare else _socket.AF_INET
    try:
        # A zone ("%eth0") is no part of it; a surrogate is no character of any address.
        packed = _socket.inet_pton(family, bare) if len(bare) <= _MAX_LENGTH and bare.isascii() else b""
    except OSError:
        packed = b""
    if not packed:
        return "", "is not an IP address"
    if not slash:
        return _socket.inet_ntop(family, packed), ""
    if not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= _LONGEST[family]):
        return "", "has a netmask or something else behind its slash, not a prefix length"
    bits = int(length)
    if bits < _SHORTEST[family]:
        return "", "is a range or a network, not one address"
    host = int.from_bytes(packed, "big") & ((1 << (_LONGEST[family] - bits)) - 1)
    if host == 0 and bits < _POINT_TO_POINT[family]:
        return "", "is a network, not one address"
    return _socket.inet_ntop(family, packed), ""

"""Parse the addresses in a vif's `ip=`, for the hook, the daemon and the CLI.

The hook imports this at each start of a vif, so it imports next to nothing.
"""

from __future__ import annotations

import _socket  # socket without its enums and selectors, which take 5 ms to import

# A shorter prefix is a range that the guest may use, or a network that is routed to it, not the guest's own address.
# Blocking the network's first address would be a guess, and blocking the whole network could cut off other VMs.
_SHORTEST = {_socket.AF_INET: 24, _socket.AF_INET6: 48}
# With these prefix lengths both addresses of a network belong to hosts (RFC 3021, RFC 6164).
_POINT_TO_POINT = {_socket.AF_INET: 31, _socket.AF_INET6: 127}
_LONGEST = {_socket.AF_INET: 32, _socket.AF_INET6: 128}
_MAPPED = (b"\0\0", b"\xff\xff")
# inet_pton takes no longer address (INET6_ADDRSTRLEN), and a config file may hold a megabyte here.
_MAX_LENGTH = 64
# More than any vif has; each address becomes a rule in the kernel.
_MOST = 256
_QUOTES = "\"'"


def parse(text: str) -> tuple[list[str], list[str]]:
    """(addresses in canonical form, rejected words) from text as vif scripts take it: words separated by spaces, each
    perhaps with a prefix length, and perhaps in quotes.

    `10.50.0.9/24` means the one address 10.50.0.9. A network (`203.0.113.8/29`), a range (`10.0.0.1/8`) and an address
    with a netmask are rejected: `why` says what is wrong with a word.
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
    """Why `parse` rejected a word of `ip=`: the end of a sentence that begins with the word."""
    return _read(word.strip(_QUOTES))[1] or f"is one address more than the {_MOST} that are taken"


def _read(word: str) -> tuple[str, str]:
    """(the address in canonical form, why the word is rejected): one of the two is ""."""
    bare, slash, length = word.partition("/")
    family = _socket.AF_INET6 if ":" in bare else _socket.AF_INET
    try:
        # inet_pton rejects a zone ("%eth0"), and it cannot encode a surrogate, which is why only ASCII reaches it.
        packed = _socket.inet_pton(family, bare) if len(bare) <= _MAX_LENGTH and bare.isascii() else b""
    except OSError:
        packed = b""
    # No guest has an IPv4 address in an IPv6 address (::/96, ::ffff:0:0/96), and libraries spell it in two ways.
    if not packed or (family == _socket.AF_INET6 and packed[:10] == bytes(10) and packed[10:12] in _MAPPED):
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

"""The one reader of a vif's `ip=`."""

from __future__ import annotations

from typing import Any

import pytest

from xenbw.hook import call
from xenbw.xen.addresses import parse, why


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("", []),
        ("10.50.0.9", ["10.50.0.9"]),
        ("10.50.0.9/24", ["10.50.0.9"]),
        ("10.50.0.9/32", ["10.50.0.9"]),
        ("10.50.0.8/31 2001:db8::/127", ["10.50.0.8", "2001:db8::"]),
        (" 10.50.0.9  2001:DB8::7/64 ", ["10.50.0.9", "2001:db8::7"]),
        ("10.50.0.9,10.50.0.10", ["10.50.0.9", "10.50.0.10"]),
        ("10.50.0.9 10.50.0.9/24", ["10.50.0.9"]),
        ("\"10.50.0.9\" '10.50.0.10'", ["10.50.0.9", "10.50.0.10"]),
        ('"10.50.0.9 10.50.0.10"', ["10.50.0.9", "10.50.0.10"]),
    ],
)
def test_an_address_with_a_prefix_length_is_one_address(text: str, addresses: list[str]) -> None:
    assert parse(text) == (addresses, [])


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("dhcp", "is not an IP address"),
        ("10.50.0", "is not an IP address"),
        ("010.50.0.9", "is not an IP address"),
        ("fe80::1%eth0", "is not an IP address"),
        ("10.0.0.1;reboot", "is not an IP address"),
        ("7", "is not an IP address"),
        ("::ffff:10.0.0.1", "is not an IP address"),
        ("::10.0.0.1", "is not an IP address"),
        ("::1:2", "is not an IP address"),
        ("10.0.0.1\udcff", "is not an IP address"),
        ("1" * 100_000, "is not an IP address"),
        ("10.0.0.1/8", "is a range or a network, not one address"),
        ("10.50.0.0/16", "is a range or a network, not one address"),
        ("2001:db8:1::/32", "is a range or a network, not one address"),
        ("203.0.113.8/29", "is a network, not one address"),
        ("2001:db8:1::/64", "is a network, not one address"),
        ("10.0.0.9/255.255.255.0", "has a netmask or something else behind its slash, not a prefix length"),
        ("10.50.0.9/33", "has a netmask or something else behind its slash, not a prefix length"),
        ("10.50.0.9/" + "9" * 5000, "has a netmask or something else behind its slash, not a prefix length"),
        ("10.50.0.9/\u0662\u0664", "has a netmask or something else behind its slash, not a prefix length"),
        ("10.50.0.9/", "has a netmask or something else behind its slash, not a prefix length"),
    ],
)
def test_a_word_that_is_not_one_address_is_rejected_with_a_reason(word: str, wrong: str) -> None:
    assert parse(f"10.50.0.9 {word} 10.50.0.10") == (["10.50.0.9", "10.50.0.10"], [word])
    assert why(word) == wrong


def test_addresses_beyond_the_most_that_a_vif_has_are_rejected() -> None:
    addresses, others = parse(" ".join(f"10.{n >> 8}.{n & 255}.1" for n in range(300)))
    assert (len(addresses), len(others)) == (256, 44)
    assert "more than the 256" in why(others[0])


def test_the_hook_logs_words_of_ip_that_it_rejects(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Facts:
        """Of a domain that starts, as far as the log has to do with them."""

        name, interface, not_ips = "we\nb1", "vif7.0", ["10.0.0.1/8", "x" * 1000]

    monkeypatch.setattr(call, "_log", told.append)
    facts: Any = Facts()
    call.tell_of_addresses(facts)
    (line,) = told
    assert line.startswith(r"'we\nb1', 'vif7.0': not taken of its ip=: '10.0.0.1/8' is a range or a network")
    assert len(line) < 400

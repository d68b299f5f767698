"""Guests that several modules use. Each has an IPv4 and an IPv6 address, both in its config file."""

from __future__ import annotations

from dataclasses import dataclass

from rig.guest import Card, Guest


@dataclass(frozen=True)
class Pair:
    """Two guests on the bridge."""

    web: Guest
    db: Guest


def numbered(name: str, number: int) -> Guest:
    """A guest whose MAC and addresses end in a number."""
    return Guest(name, [Card(f"00:16:3e:77:00:{number:02x}", (f"10.77.0.{number}", f"fd77::{number}"))])


def web() -> Guest:
    """web1, the subject of most scenarios."""
    return numbered("web1", 11)


def db() -> Guest:
    """db1, in good standing."""
    return numbered("db1", 12)


def shop() -> Guest:
    """shop, which runs only in some scenarios."""
    return numbered("shop", 13)

"""The guests that more than one module is about. Each has an address of either family, known from its config file."""

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
    """web1, whom most happens to."""
    return numbered("web1", 11)


def db() -> Guest:
    """db1, in good standing."""
    return numbered("db1", 12)


def shop() -> Guest:
    """shop, which runs now and then."""
    return numbered("shop", 13)

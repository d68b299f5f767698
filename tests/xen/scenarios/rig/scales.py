"""Guests' traffic with the host outside, by counters of its own kernel."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from typing import Self

from rig import shell
from rig.guest import Guest, Usage

_OUTSIDE = ("ip", "netns", "exec", "outside")
_TABLE = "netdev scales"


class Scales:
    """Counts bytes to and from guests as dom0 does: to a guest with Ethernet headers, from it without.

    Multicasts from a guest are counted, multicasts to it are not.
    """

    def __init__(self, guests: Iterable[Guest]) -> None:
        self._macs = [guest.mac for guest in guests]

    def __enter__(self) -> Self:
        lines = [f"table {_TABLE} {{"]
        for number, _ in enumerate(self._macs):
            lines += [f"counter {way}{number} {{}}" for way in ("in", "out")]
        for way, hook, side in (("in", "egress", "daddr"), ("out", "ingress", "saddr")):
            lines.append(f"chain {way} {{ type filter hook {hook} device eth0 priority 0;")
            lines += [f"ether {side} {mac} counter name {way}{number}" for number, mac in enumerate(self._macs)]
            lines.append("}")
        text = "\n".join([*lines, "}", ""])
        subprocess.run([*_OUTSIDE, "nft", "-f", "-"], input=text, text=True, check=True)
        return self

    def __exit__(self, *_: object) -> None:
        shell.run(*_OUTSIDE, "nft", "delete", "table", *_TABLE.split())

    def total(self, guest: Guest) -> Usage:
        """The bytes so far."""
        listed = json.loads(shell.run(*_OUTSIDE, "nft", "-j", "list", "counters", "table", *_TABLE.split()))["nftables"]
        found = {one["counter"]["name"]: one["counter"]["bytes"] for one in listed if "counter" in one}
        number = self._macs.index(guest.mac)
        return Usage(found[f"in{number}"], found[f"out{number}"])

"""Counts the frames of a guest that reach the host outside, dom0 and other guests, by nft counters at their ends."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from typing import Self

from rig import shell
from rig.guest import Guest

_OUTSIDE = ("ip", "netns", "exec", "outside")
_TABLE = ("netdev", "ears")
_ETHERNET_HEADER = 14


class Ears:
    """Counts the frames of a guest that may use several MACs: `heard` at each receiver; `weight` each frame once, at
    the receiver that it is addressed to, or else at the host outside.

    others: all guests that run beside it.
    """

    def __init__(self, macs: Iterable[str], others: Iterable[Guest]) -> None:
        self._sent = f"ether saddr {{ {', '.join(macs)} }}"
        self._others = {guest.name: guest for guest in others}

    def __enter__(self) -> Self:
        (bridge,) = json.loads(shell.run("ip", "-j", "link", "show", "xenbr0"))
        here = self._counters("dom0", "ingress device xenbr0", f"ether daddr {bridge['address']}")
        for name, guest in self._others.items():
            here += self._counters(name, f'egress device "vif{guest.domid}.0"', f"ether daddr {guest.mac}")
        macs = ", ".join([bridge["address"], *(guest.mac for guest in self._others.values())])
        _load((), here)
        _load(_OUTSIDE, self._counters("outside", "ingress device eth0", f"ether daddr != {{ {macs} }}"))
        return self

    def _counters(self, who: str, hook: str, weighed: str) -> str:
        """Counters at one receiver: for all frames of the guest, and for the frames that are weighed there."""
        return f"""
            counter {who} {{}}
            counter {who}_weighed {{}}
            chain at_{who} {{
                type filter hook {hook} priority 0;
                {self._sent} counter name {who}
                {self._sent} {weighed} counter name {who}_weighed
            }}
        """

    def __exit__(self, *_: object) -> None:
        for where in (_OUTSIDE, ()):
            shell.run(*where, "nft", "delete", "table", *_TABLE)

    def heard(self) -> dict[str, int]:
        """How many of the guest's frames each receiver has got so far."""
        return {who: frames for who, (frames, _) in _read().items() if not who.endswith("_weighed")}

    def weight(self) -> int:
        """Bytes of all frames so far, each once, without Ethernet headers, as dom0 counts frames from a guest."""
        told = _read()
        # An egress hook counts with the Ethernet header.
        headers = _ETHERNET_HEADER * sum(told[f"{name}_weighed"][0] for name in self._others)
        return sum(size for who, (_, size) in told.items() if who.endswith("_weighed")) - headers


def _load(where: tuple[str, ...], rules: str) -> None:
    text = f"table {' '.join(_TABLE)} {{ {rules} }}\n"
    subprocess.run([*where, "nft", "-f", "-"], input=text, text=True, check=True)


def _read() -> dict[str, tuple[int, int]]:
    """Frames and bytes by name of the counter."""
    found: dict[str, tuple[int, int]] = {}
    for where in (_OUTSIDE, ()):
        listed = json.loads(shell.run(*where, "nft", "-j", "list", "counters", "table", *_TABLE))["nftables"]
        counters = [one["counter"] for one in listed if "counter" in one]
        found |= {counter["name"]: (counter["packets"], counter["bytes"]) for counter in counters}
    return found

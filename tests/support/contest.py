"""VMs that are over their allowance and send all the time, on a host where other programs change the rules."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from functools import partial
from ipaddress import ip_address
from typing import Any, Self

from tests.support.dom0 import BRIDGE, DOM0_ADDRESSES
from tests.support.ears import Door, Ear
from tests.support.firewalls import PREPARE
from tests.support.frames import BROADCAST, frame
from tests.support.host import Host
from tests.support.intruder import mac_of
from tests.support.netns import Namespace
from tests.support.packets import ip4, udp
from xenbw.blocks.restore import CHAIN, HOOKED
from xenbw.nft import nft

_IDLE = {4: "10.50.0.66", 6: "fd50::66"}
_KIND, _PORT = 0x88B5, 4066
_MARK = b"<mark of the contest>"
_PAUSE = 0.002
_DUMP = "iptables-legacy-save; ip6tables-legacy-save; nft -s list ruleset"
_OURS = re.compile(r"^table (?:netdev|bridge|inet|arp) xenbw \{\n.*?^\}\n", re.MULTILINE | re.DOTALL)


class Contest:
    """The host with three such VMs, and the traffic of theirs that arrives.

    "web1" on the bridge and "web2" behind a routed vif send frames that no IP firewall sees: only their seals stop
    these. "idle" has never run. A host outside uses its addresses to talk to dom0 and to a VM, and dom0 talks to that
    host: only the null routes stop that.
    """

    blocked = ("idle", "web1", "web2")

    def __init__(self, host: Host) -> None:
        self._host, self._exit = host, contextlib.ExitStack()
        self._senders: list[partial[int]] = []
        self._done = threading.Event()

    def __enter__(self) -> Self:
        with self._exit:
            self._set_up()
            self._exit = self._exit.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _set_up(self) -> None:
        host, keep = self._host, self._exit.enter_context
        host.run(["sh", "-c", PREPARE])
        host.start_daemon()
        host.add("idle", ips=tuple(map(ip_address, _IDLE.values())))
        neighbour = host.start("db1")
        bridged, routed = host.start("web1"), host.start("web2", ("10.51.0.11",), script="vif-route")
        for guest in (bridged, routed):
            # What is contested here are rules: no drop by tc is to stand beside them.
            host.hinder_drop(guest.interface)
        for name in self.blocked:
            host.xenbw("block", name)
        host.ask("sync")
        host.outside.ip(f"addr add {_IDLE[4]}/24 dev eth0", f"addr add {_IDLE[6]}/64 dev eth0")
        index = host.run(["cat", f"/sys/class/net/{routed.interface}/ifindex"]).stdout.strip()
        self._words = f"vif={nft.key(routed.domid, 0, int(index))} index={index}"
        self._by_seal = [keep(Ear(host.outside)), keep(Ear(host.namespace, None, _KIND))]
        # These hear the traffic that has passed INPUT, OUTPUT and FORWARD.
        self._door = keep(Door(host.namespace, _PORT))
        self._by_null_route = [keep(Ear(host.outside)), keep(Ear(neighbour.namespace))]
        outside = mac_of(host.outside, "eth0")
        for guest in (bridged, routed):
            self._sends(guest.namespace, frame(BROADCAST, guest.cards[0].mac, _MARK, _KIND))
        for mac, address in (
            (mac_of(host.namespace, BRIDGE), DOM0_ADDRESSES[4]),
            (neighbour.cards[0].mac, neighbour.address()),
        ):
            self._sends(host.outside, frame(mac, outside, ip4(_IDLE[4], address, udp(_MARK, port=_PORT)), 0x0800))
        with host.namespace.entered():
            talker = keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        self._senders.append(partial(talker.sendto, _MARK, (_IDLE[4], _PORT)))
        self._whole = self.seals(), self.null_routes()
        sender = threading.Thread(target=self._send)
        sender.start()
        self._exit.callback(sender.join)
        self._exit.callback(self._done.set)

    def _sends(self, place: Namespace, data: bytes) -> None:
        with place.entered():
            sender = self._exit.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            sender.bind(("eth0", 0))
        self._senders.append(partial(sender.send, data))

    def _send(self) -> None:
        while not self._done.wait(_PAUSE):
            for send in self._senders:
                with contextlib.suppress(OSError):  # refused, or no carrier
                    send()

    def act(self, script: str, command: str) -> list[str]:
        """Run a script of another program; returns that program's rules right after it."""
        script = f"{self._words} iptables={command}\n{script}\n"
        return _theirs(self._host.run(["sh", "-c", f"{{ {script} }} >/dev/null 2>&1\n{_DUMP}"]).stdout)

    def theirs(self) -> list[str]:
        """The rules that are not xenbw's, in their order."""
        return _theirs(self._host.run(["sh", "-c", _DUMP]).stdout)

    def sealed(self) -> bool:
        """Whether xenbw's table in nft is as it was at the start."""
        return self.seals() == self._whole[0]

    def routed(self) -> bool:
        """Whether xenbw's rules in the legacy tables are as they were at the start."""
        return self.null_routes() == self._whole[1]

    def by_seal(self) -> list[float]:
        """The times (as time.time()) at which traffic that only a seal stops came through, since the last call."""
        return [one.at for ear in self._by_seal for one in ear.heard() if one.frame[14:].startswith(_MARK)]

    def by_null_route(self) -> list[float]:
        """The times at which traffic that only a null route stops came through, since the last call."""
        through = [one.at for ear in self._by_null_route for one in ear.heard() if one.frame[42:].startswith(_MARK)]
        return [one.at for one in self._door.heard()] + through

    def seals(self) -> list[str]:
        """xenbw's table in nft, each object as one word; without counts and the vifs that packets add to sets."""
        listed = self._host.run(["nft", "-j", "-s", "list", "table", "netdev", nft.TABLE]).stdout
        places: dict[str, int] = {}
        return sorted(_word(thing, places) for thing in (json.loads(listed)["nftables"] if listed else []))

    def null_routes(self) -> list[list[str]]:
        """xenbw's chain, and the first rule of each chain that jumps to it, for both families."""
        rules = [self._host.rules(version) for version in (4, 6)]
        ours = [sorted(rule for rule in listed if rule.startswith(f"-A {CHAIN}")) for listed in rules]
        first = [
            next((rule for rule in listed if rule.startswith(f"-A {hooked} ")), "")
            for listed in rules
            for hooked in HOOKED
        ]
        return [*ours, first]


def _word(thing: dict[str, Any], places: dict[str, int]) -> str:
    """An nft object without its kernel handle and counts; a rule with its position in the chain."""
    ((kind, what),) = thing.items()
    for passing in ("handle", "bytes", "packets"):
        what.pop(passing, None)
    if kind == "rule":
        places[what["chain"]] = what["place"] = places.get(what["chain"], 0) + 1
    if what.get("name") in nft.NOTICED:
        what.pop("elem", None)
    elif "elem" in what:
        what["elem"] = sorted(what["elem"], key=json.dumps)
    return json.dumps(thing, sort_keys=True)


def _theirs(dump: str) -> list[str]:
    plain = re.sub(r"\[\d+:\d+\]", "", _OURS.sub("", dump))
    return [line for line in plain.splitlines() if CHAIN not in line and not line.startswith("#")]

"""Addresses that are never blocked, whatever a VM's `ip=` says: dom0's own, its gateways, resolvers and helpers."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path

from xenbw.errors import XenbwError
from xenbw.model import Network
from xenbw.runner import Runner


def _network(text: str) -> Network | None:
    try:
        return ip_network(ip_address(text.partition("%")[0]))
    except ValueError:
        return None


def own(run: Runner) -> set[Network]:
    """dom0's addresses and gateways, as iproute2 tells them. Empty where it cannot be asked."""
    found: set[Network | None] = set()
    for argv in (["ip", "-json", "addr"], ["ip", "-json", "route"], ["ip", "-6", "-json", "route"]):
        try:
            result = run(argv, timeout=2)
            entries = json.loads(result.stdout or b"[]") if result.status == 0 else []
        except (XenbwError, ValueError):
            continue
        for entry in entries:
            found.update(_network(info.get("local", "")) for info in entry.get("addr_info", ()))
            for hop in (entry, *entry.get("nexthops", ())):
                found.add(_network(hop.get("gateway", "")))
                found.add(_network(hop.get("via", {}).get("host", "")))
    return {network for network in found if network is not None}


def resolvers(path: Path = Path("/etc/resolv.conf")) -> set[Network]:
    """The name servers this host asks (resolv.conf(5))."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    words = (line.split() for line in lines)
    found = {_network(word[1]) for word in words if len(word) > 1 and word[0] == "nameserver"}
    return {network for network in found if network is not None}


def helpers(hosts: Iterable[str]) -> set[Network]:
    """The addresses of hosts xenbw itself talks to. Asks the resolver: not for the event loop's thread."""
    found: set[Network | None] = set()
    for host in hosts:
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            continue
        found.update(_network(str(answer[4][0])) for answer in answers)
    return {network for network in found if network is not None}

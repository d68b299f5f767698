"""Addresses that are never blocked, whatever a VM's `ip=` says: dom0's own, its gateways, resolvers, and helpers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from xenbw.book.servers import servers
from xenbw.errors import XenbwError
from xenbw.ledger.ledger import Ledger
from xenbw.model import Network
from xenbw.runner import Runner

RESOLV_CONF = Path("/etc/resolv.conf")

_QUESTIONS = (("ip", "-json", "addr"), ("ip", "-json", "route"), ("ip", "-6", "-json", "route"))
_HOLDS = "the addresses known before stay protected"
_Found = set[Network]
_Sources = dict[str, Callable[[], _Found]]


class Protected:
    """The networks that are never blocked, from several sources. If a source fails, its last answer stays in force.

    networks: all of them. problems: which sources failed, for the admin.
    """

    def __init__(self, run: Runner, before: Iterable[Network] = (), resolv_conf: Path = RESOLV_CONF) -> None:
        """before: the networks protected when blocks were last enforced; kept until every source has answered."""
        self._run, self._before, self._resolv_conf = run, frozenset(before), resolv_conf
        self._answers: dict[str, _Found] = {}
        self._servers: dict[str, tuple[str, ...]] = {}  # by the book's address
        self.networks: frozenset[Network] = self._before
        self.problems: tuple[str, ...] = ()

    def refresh(self, helpers: Iterable[str], book: str = "") -> None:
        """Ask every source. helpers: hosts that xenbw talks to. book: the address of its MongoDB. The resolver looks
        them up, which may take long."""
        failures: list[str] = []
        try:
            self._servers = {book: servers(book) if book else ()}
        except XenbwError as error:
            failures.append(str(error))
        sources = self._here() | _lookups([*helpers, *self._servers.get(book, ())])
        self._ask(sources, failures)
        self._answers = {source: found for source, found in self._answers.items() if source in sources}
        silent = book not in self._servers or sources.keys() - self._answers.keys()
        self._hold(failures, silent=bool(silent))

    def look_here(self) -> None:
        """Ask only the sources that answer at once: iproute2 and resolv.conf."""
        failures: list[str] = []
        self._ask(self._here(), failures)
        self._hold(failures, silent=True)

    def _here(self) -> _Sources:
        questions: _Sources = {" ".join(argv): partial(self._own, argv) for argv in _QUESTIONS}
        return questions | {str(self._resolv_conf): partial(_resolvers, self._resolv_conf)}

    def _ask(self, sources: _Sources, failures: list[str]) -> None:
        for source, ask in sources.items():
            try:
                self._answers[source] = ask()
            except (XenbwError, OSError) as error:
                failures.append(f"{source}: {_reason(error)}")

    def _hold(self, failures: Iterable[str], *, silent: bool) -> None:
        self.networks = frozenset[Network]().union(*self._answers.values(), self._before if silent else ())
        self.problems = tuple(f"{failure}; {_HOLDS}" for failure in failures)

    def _own(self, argv: tuple[str, ...]) -> _Found:
        """dom0's addresses or gateways, as iproute2 tells them."""
        result = self._run(argv, timeout=2)
        if result.status != 0:
            error = " ".join(result.stderr.decode(errors="replace").split())[:200]
            raise XenbwError(f"exit status {result.status}" + (f": {error}" if error else ""))
        try:
            entries = json.loads(result.stdout or b"[]")
            return {network for entry in entries for network in _named(entry)}
        except (ValueError, AttributeError, TypeError):
            raise XenbwError("the answer is not iproute2's JSON") from None


def last_known(ledger: Ledger) -> set[Network]:
    """The networks that were protected when blocks were last enforced. Raises LedgerError."""
    return {ip_network(word) for word in str(ledger.meta("protected") or "").split()}


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _network(text: str) -> Network | None:
    try:
        return ip_network(ip_address(text.partition("%")[0]))
    except ValueError:
        return None


def _known(found: Iterable[Network | None]) -> _Found:
    return {network for network in found if network is not None}


def _named(entry: Any) -> _Found:
    """The addresses of an interface, or the gateways of a route."""
    hops = (entry, *entry.get("nexthops", ()))
    texts = [info.get("local", "") for info in entry.get("addr_info", ())]
    texts += [text for hop in hops for text in (hop.get("gateway", ""), hop.get("via", {}).get("host", ""))]
    return _known(map(_network, texts))


def _resolvers(path: Path) -> _Found:
    """The name servers this host asks (resolv.conf(5)); without a file it asks itself. A link that leads nowhere is a
    resolver that does not run yet."""
    if not path.exists() and not path.is_symlink():
        return set()
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    words = (line.split() for line in lines)
    return _known(_network(word[1]) for word in words if len(word) > 1 and word[0] == "nameserver")


def _lookups(hosts: Iterable[str]) -> _Sources:
    return {f"host {host}": partial(_addresses, host) for host in hosts}


def _addresses(host: str) -> _Found:
    literal = _network(host)
    if literal is not None:
        return {literal}
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except ValueError:  # a label is empty or longer than 63 characters
        raise XenbwError("not a host name") from None
    return _known(_network(str(answer[4][0])) for answer in answers)

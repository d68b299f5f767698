"""Parse the output of `xentop -b -f -n -i 1`: state and network counters of each domain."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from xenbw.errors import XenbwError
from xenbw.text import decode

# A counter of 64 bits has no more digits, and xentop has at most 19 columns (tools/xentop/xentop.c, fields[]). The
# name of a domain may look like a counter or a header with more.
_DIGITS, _COLUMNS = 20, 40
# "Net%d RX: %8llubytes %8llupkts %8lluerr %8lludrop  TX: …" (tools/xentop/xentop.c, do_network).
_NET = re.compile(
    rb"Net(?P<index>\d{1,9})"
    rb" RX: *(?P<rx_bytes>\d{1,20})bytes *(?P<rx_packets>\d{1,20})pkts *\d+err *(?P<rx_drops>\d{1,20})drop"
    rb" *TX: *(?P<tx_bytes>\d{1,20})bytes *(?P<tx_packets>\d{1,20})pkts *\d+err *(?P<tx_drops>\d{1,20})drop *"
)
_NAME_AND_STATE = rb"(?P<name>.*) (?P<state>[-dsbcpr]{6})"
# MAXMEM(k) of a domain without a limit is "no limit", the only value of two words (print_maxmem).
_VALUE = rb" +(no limit|\S+)"


@dataclass(frozen=True)
class NetSample:
    """The counters of one network of a domain since its vif was connected.

    `index` is the position among the domain's interfaces in /proc/net/dev, not the devid. Received (rx) and transmitted
    (tx) are the backend's view: rx comes from the guest, tx goes to the guest.
    """

    index: int
    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int
    rx_drops: int
    tx_drops: int

    @property
    def in_bytes(self) -> int:
        """Bytes to the guest."""
        return self.tx_bytes

    @property
    def out_bytes(self) -> int:
        """Bytes from the guest."""
        return self.rx_bytes


@dataclass(frozen=True)
class DomainSample:
    """One domain. `nets` is the number of its networks; `tx_kib` and `rx_kib` are their sums, rounded down to KiB.

    These three are None if xentop prints no such column. `networks` is empty without `-n`. Without `-f` the name is cut
    to 10 bytes. `state` is six letters or dashes: dying, shut down, blocked, crashed, paused, running.
    """

    name: str
    state: str
    nets: int | None
    tx_kib: int | None
    rx_kib: int | None
    networks: tuple[NetSample, ...]


def parse(output: bytes) -> tuple[DomainSample, ...]:
    """The domains of the last complete iteration in `output`, in the order printed.

    Columns are found by the header, since versions of Xen print different columns. Lines of other kinds (`-v`, `-x`)
    are skipped. Raises XenbwError when there is no complete iteration.
    """
    iterations = [_domains(columns, rows) for columns, rows in _iterations(output)]
    with_networks = any(domain.networks for domains in iterations for domain in domains)
    complete = [domains for domains in iterations if _is_complete(domains, with_networks)]
    if not complete:
        raise _unreadable()
    return complete[-1]


def parse_once(output: bytes) -> tuple[DomainSample, ...]:
    """The domains that one iteration (`-i 1`) with networks (`-n`) prints, in the order printed, without domains whose
    networks are not all there. Raises XenbwError when there is no header or no domain.

    A name may contain line breaks, and so may look like lines of other domains: if a domain seems to be there twice,
    perhaps neither is real. A name cannot hide a domain, since the header comes before all names, and a domain's
    networks follow its own line.
    """
    lines = iter(output.split(b"\n"))
    columns = next((words for line in lines if (words := line.split())[:2] == [b"NAME", b"STATE"]), [])
    domains = _domains(columns, list(lines)) if columns else ()
    if not domains:
        raise _unreadable()
    whole = (replace(domain, networks=domain.networks[: domain.nets]) for domain in domains)
    return tuple(domain for domain in whole if domain.nets in (None, len(domain.networks)))


def _unreadable() -> XenbwError:
    return XenbwError("cannot read the output of xentop", "run 'xentop -b -f -n -i 1' as root to see it")


def _iterations(output: bytes) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Header columns and body lines of each iteration."""
    columns: list[bytes] = []
    body: list[bytes] = []
    for line in output.split(b"\n"):
        words = line.split()
        if words[:2] == [b"NAME", b"STATE"] and len(words) <= _COLUMNS:
            if columns:
                yield columns, body
            columns, body = words, []
        else:
            body.append(line)
    if columns:
        yield columns, body


def _domains(columns: list[bytes], lines: list[bytes]) -> tuple[DomainSample, ...]:
    names = [column.decode("ascii", errors="replace") for column in columns[2:]]
    # A row is read from its right end: the name may contain spaces, colons and digits and be wider than its column.
    row_pattern = re.compile(_NAME_AND_STATE + _VALUE * len(names) + rb" *")
    domains: list[DomainSample] = []
    for line in lines:
        if row := row_pattern.fullmatch(line):
            domains.append(_domain(row, dict(zip(names, row.groups()[2:], strict=True))))
        elif domains and (net := _NET.fullmatch(line)):
            domain = domains[-1]
            domains[-1] = replace(domain, networks=(*domain.networks, _network(net)))
    return tuple(domains)


def _domain(row: re.Match[bytes], values: dict[str, bytes]) -> DomainSample:
    return DomainSample(
        name=decode(row["name"].strip(b" ")),
        state=row["state"].decode("ascii"),
        nets=_number(values.get("NETS")),
        tx_kib=_number(values.get("NETTX(k)")),
        rx_kib=_number(values.get("NETRX(k)")),
        networks=(),
    )


def _network(net: re.Match[bytes]) -> NetSample:
    return NetSample(**{field: int(digits) for field, digits in net.groupdict().items()})


def _number(value: bytes | None) -> int | None:
    return int(value) if value is not None and value.isdigit() and len(value) <= _DIGITS else None


def _is_complete(domains: tuple[DomainSample, ...], with_networks: bool) -> bool:
    """Whether the output was not cut off: with `-n`, exactly NETS lines follow each domain (do_network)."""
    cut = with_networks and any(domain.nets not in (None, len(domain.networks)) for domain in domains)
    return bool(domains) and not cut

"""The meters: read(wanted) -> {binding id: Reading}. Bytes since the vif came up; in and out as the guest sees them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from xenbw.errors import MeterError, XenbwError
from xenbw.model import Amounts, Counters, Life, Mark, Reading
from xenbw.runner import Runner
from xenbw.vifs.interfaces import shown
from xenbw.xen import xentop

# Seconds. xentop takes a third of a second on a slow host.
_STALE = 10.0


class Metered(Protocol):
    """A binding to be read. key: the life of the vif; interface: the vif's present name; mark: its last reading."""

    @property
    def binding_id(self) -> int: ...
    @property
    def key(self) -> Life: ...
    @property
    def interface(self) -> str: ...
    @property
    def mark(self) -> Mark: ...


class Meter(Protocol):
    """One source of counters. The methods here are those of a source without our own counters on the vifs.

    own: whether the meter reads our own counters, which outlive their vif. packets: by binding id, the packets to the
    guest (in) and from it (out) at the last `read`, passed or refused, without those that a bridge flooded to it if the
    meter can tell; empty where the meter knows none.
    """

    name: str
    own: bool = False
    packets: Mapping[int, Counters] = MappingProxyType({})

    def probe(self) -> str | None:
        """Why this meter cannot work on this host, or None."""
        return None

    def read(self, wanted: Iterable[Metered]) -> dict[int, Reading]:
        """The present counters by binding id, of the vifs that exist. Raises MeterError."""
        ...

    def glance(self, wanted: Collection[Metered]) -> dict[int, Reading]:
        """`read` for a few of very many vifs, of those whose own counters were read before. Raises MeterError."""
        return {}

    def last(self, wanted: Iterable[Metered]) -> dict[int, Reading]:
        """The last counters by binding id, of vifs that are gone and still have counters. Raises MeterError."""
        return {}

    def counted(self, lives: Collection[Life]) -> dict[Life, Amounts]:
        """The amounts of our own counters, for those of these lives that have any. Raises MeterError."""
        return {}

    def lives(self) -> set[Life]:
        """The lives of all vifs, gone or not, that have our own counters. Raises MeterError."""
        return set()

    def forget(self) -> None:
        """Give out nothing that was read before this moment."""
        return

    def close(self) -> None:
        """Release threads and files."""
        return


class KernelMeter(Meter):
    """The kernel's counters, in one pass over /proc/net/dev: 1 ms for 500 interfaces, where sysfs takes 20. They vanish
    with the interface, and netback clears them shortly before."""

    name = "kernel"

    def __init__(self, path: Path = Path("/proc/net/dev")) -> None:
        self._path = path

    def read(self, wanted: Iterable[Metered]) -> dict[int, Reading]:
        lines, found, packets = self._lines(), dict[int, Reading](), dict[int, Counters]()
        for one in wanted:
            if one.interface in lines:
                counters, packets[one.binding_id] = _counters(lines[one.interface])
                found[one.binding_id] = Reading(counters)
        self.packets = packets
        return found

    def read_all(self) -> dict[str, Counters]:
        """The counters of every interface of the host."""
        return {interface: _counters(fields)[0] for interface, fields in self._lines().items()}

    def traffic(self) -> dict[str, tuple[Counters, Counters]]:
        """The bytes and the packets of every interface of the host. Raises MeterError."""
        return {interface: _counters(fields) for interface, fields in self._lines().items()}

    def _lines(self) -> dict[str, str]:
        try:
            text = self._path.read_text(encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise MeterError(f"{self._path}: {error.strerror}", "is /proc mounted?") from None
        # No interface's name has a colon (net/core/dev.c, dev_valid_name), nor have the two lines of heading.
        # A name may have any other character, also those that only Python takes for the end of a line.
        parts = (line.partition(":") for line in text.split("\n"))
        return {name.strip(" "): fields for name, colon, fields in parts if colon}


def _counters(fields: str) -> tuple[Counters, Counters]:
    """Bytes and packets. Those received (from the guest) come first, those sent (to it) ninth (linux
    net/core/net-procfs.c)."""
    values = fields.split(None, 10)
    return Counters(int(values[8]), int(values[0])), Counters(int(values[9]), int(values[1]))


class XentopMeter(Meter):
    """The kernel's counters as xentop prints them. xentop runs in a thread, since it is slow and may hang.

    owner_of(interface) -> (the VM's name, ifindex) of a metered vif. xentop's `Net<i>` is the place among the domain's
    lines in /proc/net/dev, not the devid (xenstat_linux.c), and it names a domain only by its name, which may hold any
    character. Where that does not tell which vif a number belongs to, as with a renamed -emu tap that xentop does not
    find, the kernel's counter is taken, which is the same number.
    """

    name = "xentop"

    def __init__(self, run: Runner, owner_of: Callable[[str], tuple[str, int] | None], interval: float) -> None:
        self._run, self._owner_of, self._interval = run, owner_of, interval
        self._sample: Sample | None = None
        self._since = 0.0
        self._problem: XenbwError | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._serve, name="xentop", daemon=True).start()

    def read(self, wanted: Iterable[Metered]) -> dict[int, Reading]:
        """Counters of the last sample. Raises MeterError if the last run of xentop failed or the last sample is old."""
        sample, problem = self._sample, self._problem
        if problem is not None:
            raise MeterError(problem.message, problem.hint)
        if sample is None or sample.at < self._since:
            return {}
        if time.monotonic() - sample.at > _STALE:
            raise MeterError("xentop has printed nothing for a while", "is it hung? the kernel meter does without it")
        by_interface = {one.interface: one.binding_id for one in wanted}
        return {
            by_interface[interface]: Reading(counters)
            for interface, counters in sample.assign(self._owner_of).items()
            if interface in by_interface
        }

    def forget(self) -> None:
        """Give out no sample that was begun before this moment."""
        self._since = time.monotonic()

    def close(self) -> None:
        """End the thread after the present run of xentop."""
        self._closed.set()

    def _serve(self) -> None:
        while not self._closed.wait(self._interval):
            try:
                self._sample, self._problem = look(self._run), None
            except XenbwError as error:
                self._problem = error


@dataclass(frozen=True)
class Sample:
    """One run of xentop, begun at `at`. interfaces: (name, ifindex) in the order of /proc/net/dev. kernel: the kernel's
    counters by interface, read right after xentop: never below this run's, never above the next run's."""

    at: float
    interfaces: tuple[tuple[str, int], ...]
    domains: tuple[xentop.DomainSample, ...]
    kernel: Mapping[str, Counters]

    def assign(self, owner_of: Callable[[str], tuple[str, int] | None]) -> dict[str, Counters]:
        """xentop's counters by interface. The kernel's where xentop does not tell which numbers are the interface's:
        two domains have the VM's name, or none has, or some of the VM's vifs belong to another domain."""
        owned: dict[str, list[str]] = {}
        for interface, ifindex in self.interfaces:
            owner = owner_of(interface)
            # A vif that came later under the same name has another ifindex.
            if owner is not None and owner[1] == ifindex:
                # xentop pads names with blanks.
                owned.setdefault(owner[0].strip(" "), []).append(interface)
        named: dict[str, list[xentop.DomainSample]] = {}
        for domain in self.domains:
            named.setdefault(domain.name, []).append(domain)
        found: dict[str, Counters] = {}
        for name, mine in owned.items():
            samples = named.get(name, [])
            networks = samples[0].networks if len(samples) == 1 else ()
            if len(networks) == len(mine):
                found |= {
                    interface: Counters(network.in_bytes, network.out_bytes)
                    for interface, network in zip(mine, networks, strict=True)
                }
            # If xentop has more interfaces than are known here, wait: the new one will be known in a moment.
            elif len(networks) < len(mine):
                found |= {interface: self.kernel[interface] for interface in mine if interface in self.kernel}
        return found


def look(run: Runner) -> Sample:
    """Run xentop once. Raises MeterError, XenbwError."""
    at, before = time.monotonic(), socket.if_nameindex()
    result = run(["xentop", "-b", "-f", "-n", "-i", "1"], timeout=_STALE)
    if result.status != 0:
        raise MeterError(f"xentop: exit status {result.status}", "may the unit use /dev/xen? see examples/xentop.conf")
    indexes = {shown(interface): ifindex for ifindex, interface in before}
    # xentop numbers interfaces in the order of /proc/net/dev.
    kernel = KernelMeter().read_all()
    order = [interface for interface in kernel if interface in indexes]
    return Sample(at, tuple((name, indexes[name]) for name in order), xentop.parse_once(result.stdout), kernel)

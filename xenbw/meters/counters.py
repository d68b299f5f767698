"""The meters: read(wanted) -> {binding's id: Reading}. Bytes since the interface came up, in the guest's directions."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from xenbw.errors import MeterError, XenbwError
from xenbw.model import Amounts, Counters, Life, Reading
from xenbw.runner import Runner
from xenbw.xen import xentop

# Seconds. xentop takes a third of a second on a slow host.
_STALE = 10.0


class Metered(Protocol):
    """What a meter is asked for: a binding, which life of which vif it is, and the interface's name now."""

    @property
    def binding_id(self) -> int: ...
    @property
    def key(self) -> Life: ...
    @property
    def interface(self) -> str: ...


class Meter(Protocol):
    """One source of counters. The answers here are those of a source that has no counters of its own on the vifs.

    own: whether it reads our own counters, which outlive their interface.
    """

    name: str
    own: bool = False

    def probe(self) -> str | None:
        """Why it cannot work on this host, or None."""
        return None

    def read(self, wanted: Iterable[Metered]) -> dict[int, Reading]:
        """The present counters, by binding's id, of those that there are. Raises MeterError."""
        ...

    def last(self, wanted: Iterable[Metered]) -> dict[int, Reading]:
        """The last counters of interfaces that are gone, of those that are still known. Raises MeterError."""
        return {}

    def counted(self, lives: Collection[Life]) -> dict[Life, Amounts]:
        """What our counters of these lives say, of those that have any. Raises MeterError."""
        return {}

    def lives(self) -> set[Life]:
        """The life of every vif that has counters of ours, gone or not. Raises MeterError."""
        return set()

    def close(self) -> None:
        """Let go of what it holds open."""
        return


class KernelMeter(Meter):
    """One pass over /proc/net/dev: a millisecond for 500 interfaces, where sysfs takes twenty. These counters go with
    the interface, and netback clears them before."""

    name = "kernel"

    def __init__(self, path: Path = Path("/proc/net/dev")) -> None:
        self._path = path

    def read(self, wanted: Iterable[Metered]) -> dict[int, Reading]:
        lines = self._lines()
        return {one.binding_id: Reading(_counters(lines[one.interface])) for one in wanted if one.interface in lines}

    def read_all(self) -> dict[str, Counters]:
        """Every interface there is."""
        return {interface: _counters(fields) for interface, fields in self._lines().items()}

    def _lines(self) -> dict[str, str]:
        try:
            text = self._path.read_text(encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise MeterError(f"{self._path}: {error.strerror}", "is /proc mounted?") from None
        # A name cannot hold a colon (net/core/dev.c, dev_valid_name); the two lines of heading have none.
        parts = (line.partition(":") for line in text.splitlines())
        return {name.strip(): fields for name, colon, fields in parts if colon}


def _counters(fields: str) -> Counters:
    """Bytes received (from the guest) come first, bytes sent (to it) ninth (linux net/core/net-procfs.c)."""
    values = fields.split(None, 9)
    return Counters(int(values[8]), int(values[0]))


class XentopMeter(Meter):
    """The same counters by Xen's own tool, which runs in a thread: it takes its time, and may hang.

    owner_of(interface) -> (the VM's name, ifindex) of an interface that is metered. `Net<i>` is the place among the
    domain's lines in /proc/net/dev, not the devid (xenstat_linux.c), and a domain has only its name, which may hold
    anything. So where xentop does not tell whose a number is, as with a renamed -emu tap that it does not find, the
    kernel's own number is taken, which is the same.
    """

    name = "xentop"

    def __init__(self, run: Runner, owner_of: Callable[[str], tuple[str, int] | None], interval: float) -> None:
        self._run, self._owner_of, self._interval = run, owner_of, interval
        self._sample: Sample | None = None
        self._problem: XenbwError | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._serve, name="xentop", daemon=True).start()

    def read(self, wanted: Iterable[Metered]) -> dict[int, Reading]:
        """Of the last sample; raises MeterError when the last run of xentop failed or the last sample is old."""
        sample, problem = self._sample, self._problem
        if problem is not None:
            raise MeterError(problem.message, problem.hint)
        if sample is None:
            return {}
        if time.monotonic() - sample.at > _STALE:
            raise MeterError("xentop has been silent for a while", "is it hung? the kernel meter does without it")
        by_interface = {one.interface: one.binding_id for one in wanted}
        return {
            by_interface[interface]: Reading(counters)
            for interface, counters in sample.assign(self._owner_of).items()
            if interface in by_interface
        }

    def close(self) -> None:
        """End the thread, after the run that is under way."""
        self._closed.set()

    def _serve(self) -> None:
        while not self._closed.wait(self._interval):
            try:
                self._sample, self._problem = look(self._run), None
            except XenbwError as error:
                self._problem = error


@dataclass(frozen=True)
class Sample:
    """One run of xentop, begun at `at`; interfaces: (name, ifindex) in the order of /proc/net/dev. kernel: the counters
    that xentop reads, by interface, read once more right after it: never below its own, and never above its next."""

    at: float
    interfaces: tuple[tuple[str, int], ...]
    domains: tuple[xentop.DomainSample, ...]
    kernel: Mapping[str, Counters]

    def assign(self, owner_of: Callable[[str], tuple[str, int] | None]) -> dict[str, Counters]:
        """Its counters by interface; the kernel's where xentop does not tell which of its numbers are the interface's:
        of a name that is there twice, or not at all, and of a VM that has interfaces of another domain as well."""
        owned: dict[str, list[str]] = {}
        for interface, ifindex in self.interfaces:
            owner = owner_of(interface)
            # An interface that was reborn under its old name since then has another ifindex.
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
            # One more than are known here: which one that is will be known in a moment.
            elif len(networks) < len(mine):
                found |= {interface: self.kernel[interface] for interface in mine if interface in self.kernel}
        return found


def look(run: Runner) -> Sample:
    """Run xentop once. Raises MeterError, XenbwError."""
    at, before = time.monotonic(), socket.if_nameindex()
    result = run(["xentop", "-b", "-f", "-n", "-i", "1"], timeout=_STALE)
    if result.status != 0:
        raise MeterError(f"xentop: exit status {result.status}", "may the unit use /dev/xen? see examples/xentop.conf")
    indexes = {interface: ifindex for ifindex, interface in before}
    # In the order of /proc/net/dev, which is that of the kernel's list.
    kernel = KernelMeter().read_all()
    order = [interface for interface in kernel if interface in indexes]
    return Sample(at, tuple((name, indexes[name]) for name in order), xentop.parse_once(result.stdout), kernel)

"""How long it takes to block and release 1000 VMs at once, each with a vif and an IPv4 address, and by which steps."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address
from tempfile import TemporaryDirectory

from benchmarks.figure import Figure, milliseconds
from benchmarks.rig import Rig
from xenbw.blocks import restore
from xenbw.blocks.block import Line, Wanted
from xenbw.blocks.drop import Drop
from xenbw.blocks.iptables import Iptables
from xenbw.blocks.latch import Latch
from xenbw.blocks.null_sets import NullSets
from xenbw.blocks.tripwire import Tripwire
from xenbw.clock import SystemClock, Timedated, boot_id
from xenbw.config import LedgerSection, Settings
from xenbw.daemon.cycle import Work
from xenbw.ledger.ledger import Ledger
from xenbw.model import Address
from xenbw.nft import nft
from xenbw.nft.chains import Chains
from xenbw.nft.netlink import RuleWatch
from xenbw.nft.pipe import feed, hand_to_nft
from xenbw.nft.port import Port
from xenbw.nft.quotas import Quotas
from xenbw.nft.tables import Tables
from xenbw.runner import run
from xenbw.xen.xenstore import Lookup

_EVER = datetime.min.replace(tzinfo=UTC)
_COUNT = 1000
_ROUNDS = 5
_TARGET = 100.0
_SETS = 20.0

Samples = dict[str, list[float]]


def measure() -> list[Figure]:
    with Rig() as rig:
        rig.grow(_COUNT)
        samples = rig.measured("benchmarks.seal")
    took = {name: milliseconds(seconds) for name, seconds in samples.items()}
    elements = ("nft with their elements in the set alone", took["elements"])
    restored = ("iptables-legacy-restore of the same", took["restore"])
    return [
        Figure(f"sealing {_COUNT} vifs at once", took["seal"], "ms", _TARGET, elements),
        *_parts(took, "seal"),
        Figure("unsealing them", took["open"], "ms", _TARGET, elements),
        *_parts(took, "open"),
        Figure(f"null-routing {_COUNT} addresses", took["block"], "ms", _TARGET, restored),
        Figure("  the same when they are in place", took["again"], "ms", None, restored),
        Figure("  releasing them", took["release"], "ms", _TARGET, restored),
        Figure(f"null-routing {_COUNT} addresses in nft", took["sets"], "ms", _SETS, restored),
        Figure("  the same when they are in place", took["sets again"], "ms", None, restored),
        Figure("  one more address", took["one more"], "ms", None, restored),
        Figure("  releasing them", took["sets released"], "ms", _TARGET, restored),
        Figure(f"sealing and null-routing {_COUNT} at once", took["both"], "ms", _TARGET),
        Figure("  releasing them", took["both released"], "ms", _TARGET),
        Figure(f"dropping by tc on {_COUNT} vifs, which comes after that", took["drop"], "ms"),
        Figure("  the same when they are dropped", took["dropped"], "ms"),
        Figure("  releasing them", took["undrop"], "ms"),
        Figure(f"laying {_COUNT} tripwires", took["trip"], "ms", _TARGET),
        Figure("  the same when they are laid", took["tripped"], "ms"),
        Figure("  moving all their lines", took["trips moved"], "ms"),
        Figure("  100 of them after nft flush ruleset, with all chains", took["trips flushed"], "ms", _TARGET),
        Figure(f"latching {_COUNT} domains, which comes after the block", took["latch"], "ms", _TARGET),
        Figure("  the same when they are latched", took["latched"], "ms"),
        Figure("  one more domain", took["one latched"], "ms"),
        Figure("  unlatching them", took["unlatch"], "ms", _TARGET),
        Figure(f"{_COUNT} VMs judged, recorded, announced and blocked", took["daemon blocks"], "ms"),
        Figure("  released in the same way", took["daemon releases"], "ms"),
    ]


def _parts(took: Mapping[str, float], what: str) -> list[Figure]:
    words = {
        "look": "a look at the table",
        "own": "xenbw's processor time for the batch's text",
        "user": "nft's processor time",
        "kernel": "the kernel's processor time for nft",
    }
    return [Figure(f"  {said}", took[f"{what}: {part}"], "ms") for part, said in words.items()]


class _Nft:
    """nft as the daemon uses it. user, kernel: processor time of its last batch, seconds."""

    def __init__(self) -> None:
        self._rules = RuleWatch()
        self.user = self.kernel = 0.0

    def apply(self, text: str) -> str | None:
        before = resource.getrusage(resource.RUSAGE_SELF)
        done = self._rules.apply(text)
        after = resource.getrusage(resource.RUSAGE_SELF)
        self.user, self.kernel = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        return done


def _inside() -> None:
    """Print samples, in seconds, as JSON."""
    samples: Samples = {}
    method, batches = Iptables(4), _Nft()
    tables = Tables(batches.apply)
    chains = Chains(tables)
    # First, since nft reads more the more chains there are.
    _null_sets(samples, NullSets(tables))
    _seal(samples, chains, batches)
    _null_route(samples, method)
    _both(samples, chains, method)
    _drop(samples)
    _trip(samples, tables, chains)
    _latch(samples, tables)
    tables.close()
    _daemon(samples)
    print(json.dumps(samples))


def _ports() -> list[Port]:
    found = {name: ifindex for ifindex, name in socket.if_nameindex()}
    return [Port(n, 0, found[f"vif{n}.0"], f"vif{n}.0", f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}") for n in _numbers()]


def _addresses() -> dict[Address, str]:
    return {IPv4Address("10.60.0.0") + n: f"fleet{n:04}" for n in _numbers()}


def _seal(samples: Samples, chains: Chains, batches: _Nft) -> None:
    ports = _ports()
    chains.keep(ports, chains.look())
    sealed = [port._replace(sealed=True) for port in ports]
    for _ in range(_ROUNDS):
        _keep(samples, "seal", chains, batches, sealed)
        _keep(samples, "open", chains, batches, ports)
    indexes = ", ".join(str(port.ifindex) for port in ports)
    for _ in range(_ROUNDS):
        for verb in ("add", "delete"):
            text = f"{verb} element netdev {nft.TABLE} sealed {{ {indexes} }}"
            _time(samples, "elements", partial(_hand_over, text))


def _keep(samples: Samples, what: str, chains: Chains, batches: _Nft, ports: list[Port]) -> None:
    """Bring the chains of all ports to the wanted state, as the daemon does after a look since their last change."""
    chains.look()
    begin = time.perf_counter()
    view = chains.look()
    looked, looked_cpu = time.perf_counter(), time.process_time()
    chains.keep(ports, view)
    done, spent = time.perf_counter(), time.process_time() - looked_cpu
    if problems := chains.problems(ports):
        raise RuntimeError(f"nft refuses {len(problems)} interfaces")
    parts = {
        what: done - begin,
        f"{what}: look": looked - begin,
        f"{what}: own": spent - batches.user - batches.kernel,
        f"{what}: user": batches.user,
        f"{what}: kernel": batches.kernel,
    }
    for name, seconds in parts.items():
        samples.setdefault(name, []).append(seconds)


def _both(samples: Samples, chains: Chains, method: Iptables) -> None:
    """The seals and the null routes of all VMs, as the daemon sets them."""
    ports, addresses = _ports(), _addresses()

    def enforce(*, blocked: bool) -> None:
        chains.keep([port._replace(sealed=blocked) for port in ports], chains.look())
        method.apply(Wanted(addresses if blocked else {}))

    for _ in range(_ROUNDS):
        for what, blocked in (("both", True), ("both released", False)):
            chains.look()
            _time(samples, what, partial(enforce, blocked=blocked))


def _drop(samples: Samples) -> None:
    everything = Wanted(shut={port.ifindex: port.interface for port in _ports()})
    # In memory, as /run is on a host.
    with TemporaryDirectory(dir="/dev/shm") as run_dir:
        block = Drop(run_dir)
        for _ in range(_ROUNDS):
            for what, wanted in (("drop", everything), ("dropped", everything), ("undrop", Wanted())):
                _time(samples, what, partial(_keep_dropped, block, wanted))


def _keep_dropped(block: Drop, wanted: Wanted) -> bool:
    done = block.apply(wanted)
    return not done.problems and done.shut == wanted.shut.keys()


def _trip(samples: Samples, tables: Tables, chains: Chains) -> None:
    """Lay a tripwire for each VM, as the daemon does beside its chains."""
    ports = tuple(port._replace(vm_id=port.domid) for port in _ports())
    chains.keep(ports, chains.look())

    def lines(count: int, limit: int) -> tuple[Line, ...]:
        return tuple(Line(port.domid, "trip", "total", limit, 0, _EVER) for port in ports[:count])

    def laid(wanted: Wanted) -> None:
        if problems := Tripwire(tables, chains, Quotas(tables)).apply(wanted).problems:
            raise RuntimeError(problems)

    tripwire = Tripwire(tables, chains, quotas := Quotas(tables))
    for _ in range(_ROUNDS):
        _time(samples, "trip", partial(tripwire.apply, Wanted(ports=ports, lines=lines(_COUNT, 10**12))))
        quotas.around(tables.of().counters)
        _time(samples, "tripped", partial(tripwire.apply, Wanted(ports=ports, lines=lines(_COUNT, 10**12))))
        _time(samples, "trips moved", partial(tripwire.apply, Wanted(ports=ports, lines=lines(_COUNT, 2 * 10**12))))
        tripwire.apply(Wanted(ports=ports))
    few = ports[:100]
    for _ in range(_ROUNDS):
        tables.apply(f"delete table netdev {nft.TABLE}\n")

        def back() -> None:
            chains.keep(few, chains.look())
            laid(Wanted(ports=few, lines=lines(100, 10**6)))

        _time(samples, "trips flushed", back)
    tables.apply(f"delete table netdev {nft.TABLE}\n")
    chains.keep(ports, chains.look())


def _latch(samples: Samples, tables: Tables) -> None:
    def keep(latched: Iterable[int]) -> bool:
        return not latch.apply(Wanted(domids={domid: f"fleet{domid:04}" for domid in latched})).problems

    # In memory, as /run is on a host.
    with TemporaryDirectory(dir="/dev/shm") as run_dir:
        latch = Latch(tables, run_dir)
        everybody = range(1, _COUNT + 2)
        for _ in range(_ROUNDS):
            for what, latched in (
                ("latch", _numbers()),
                ("one latched", everybody),
                ("latched", everybody),
                ("unlatch", ()),
            ):
                _time(samples, what, partial(keep, latched))


def _null_route(samples: Samples, method: Iptables) -> None:
    addresses = _addresses()
    text = restore.chain_text(4, {str(address): name for address, name in addresses.items()}, jumps_exist=True)
    method.apply(Wanted({}))  # do the work that is needed only once before the measurement
    for _ in range(_ROUNDS):
        _time(samples, "block", lambda: method.apply(Wanted(addresses)))
        _time(samples, "again", lambda: method.apply(Wanted(addresses)))
        _time(samples, "restore", lambda: _restore(text))
        _time(samples, "release", lambda: method.apply(Wanted({})))


def _null_sets(samples: Samples, sets: NullSets) -> None:
    addresses = _addresses()
    one_more = {**addresses, IPv4Address("10.70.0.1"): "one more"}
    sets.apply(Wanted(addresses))  # how the bridge's table refuses is found out only once
    sets.apply(Wanted())
    for _ in range(_ROUNDS):
        _time(samples, "sets", lambda: sets.apply(Wanted(addresses)))
        _time(samples, "sets again", lambda: sets.apply(Wanted(addresses)))
        _time(samples, "one more", lambda: sets.apply(Wanted(one_more)))
        _time(samples, "sets released", lambda: sets.apply(Wanted()))


def _daemon(samples: Samples) -> None:
    """The same as the daemon does it, once the ledger says that all are blocked: judge, record, announce, block."""
    settings = replace(Settings(), ledger=LedgerSection(commit=0.0))
    ledger, lookup = Ledger.open(settings.ledger.path), Lookup()
    work = Work(settings, ledger, lookup, SystemClock(), Timedated(run).vouches, boot_id(), run, RuleWatch().apply)
    work.start()
    for reason in ("for the measurement", None):
        with ledger.transaction():
            for vm_id in ledger.vms():
                ledger.set_vm(vm_id, blocked_reason=reason)
        _time(samples, "daemon blocks" if reason else "daemon releases", work.sync)
        if work.status().null_routes != (_COUNT if reason else 0):
            raise RuntimeError("the daemon did not block, or did not release")
    lookup.close()
    work.close()


def _hand_over(text: str) -> bool:
    return hand_to_nft(text) is None


def _restore(text: bytes) -> bool:
    return feed(["iptables-legacy-restore", "--noflush"], text, {}) is None


def _time(samples: Samples, what: str, call: Callable[[], object]) -> None:
    begin = time.perf_counter()
    if call() is False:
        raise RuntimeError(f"{what} failed")
    samples.setdefault(what, []).append(time.perf_counter() - begin)


def _numbers() -> range:
    return range(1, _COUNT + 1)


if __name__ == "__main__":
    _inside()

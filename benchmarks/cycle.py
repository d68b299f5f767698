"""The processor time of a round of the daemon's work (read, credit, judge, commit) in which every vif has changed."""

from __future__ import annotations

import json
import resource
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from benchmarks.figure import Figure, milliseconds
from benchmarks.rig import Rig
from xenbw.clock import SystemClock, Timedated, boot_id
from xenbw.config import LedgerSection, Settings
from xenbw.daemon.cycle import Work
from xenbw.ledger.ledger import Ledger
from xenbw.meters.counters import KernelMeter
from xenbw.meters.nft import NftMeter
from xenbw.model import Life, Mark
from xenbw.nft.chains import Chains
from xenbw.nft.netlink import RuleWatch
from xenbw.nft.pipe import hand_to_nft
from xenbw.nft.quotas import Quotas
from xenbw.nft.tables import Tables
from xenbw.runner import run
from xenbw.xen.xenstore import Lookup

_ROUNDS = 15
_TURNS = 3
_NET_DEV = Path("/proc/net/dev")

Samples = dict[str, list[float]]


class _Wanted(NamedTuple):
    """The reading that a meter is asked for."""

    binding_id: int
    key: Life
    interface: str
    mark: Mark


def measure() -> list[Figure]:
    thousand: Samples = {}
    two_thousand: Samples = {}
    with Rig() as small, Rig() as large:
        small.grow(1000)
        large.grow(2000)
        for _ in range(_TURNS):  # take turns, so that a machine that is busy for a while does not favour one of them
            _run_inside(small, thousand)
            _run_inside(large, two_thousand)
    medians = [{name: milliseconds(seconds) for name, seconds in each.items()} for each in (thousand, two_thousand)]
    reading = [("one bare read of /proc/net/dev", each["read"]) for each in medians]
    table = ("a bare read of the same counters", medians[0]["counters"])
    tool = ("`nft list counters`, which prints them", medians[0]["tool"])
    meter = ("the bare read of the meter", medians[0]["meter"])
    growth = medians[1]["cycle"] / medians[0]["cycle"]
    growth_of_reading = medians[1]["read"] / medians[0]["read"]
    return [
        Figure("cycle, 1000 vifs changed, CPU", medians[0]["cycle"], "ms", 30, reading[0]),
        Figure("  the same, as all work of one second", medians[0]["cycle"], "ms", 2 * meter[1], meter),
        Figure("  the same, compared with what a script would run", medians[0]["cycle"], "ms", None, tool),
        Figure("  the same, compared with the netlink dump alone", medians[0]["cycle"], "ms", None, table),
        Figure("reading the nft meter, 1000 vifs, CPU", medians[0]["meter"], "ms", 25, table),
        Figure("cycle, 2000 vifs changed, CPU", medians[1]["cycle"], "ms", None, reading[1]),
        Figure("growth from 1000 to 2000 vifs", growth, "x", 2.2, ("that of the bare read", growth_of_reading)),
        Figure("cycle, 1000 vifs idle, CPU", medians[0]["idle"], "ms", None, reading[0]),
        Figure("the work of each minute, 1000 vifs, CPU", medians[0]["minute"], "ms", None, reading[0]),
        Figure("handling a hook's message, 1000 vifs, CPU", medians[0]["sync"], "ms", None, reading[0]),
    ]


def _run_inside(rig: Rig, samples: Samples) -> None:
    for name, seconds in rig.measured("benchmarks.cycle").items():
        samples.setdefault(name, []).extend(seconds)


def _inside() -> None:
    """Print samples, seconds of processor time, as JSON."""
    settings = replace(Settings(), ledger=LedgerSection(commit=0.0))
    ledger, lookup = Ledger.open(settings.ledger.path), Lookup()
    work = Work(settings, ledger, lookup, SystemClock(), Timedated(run).vouches, boot_id(), run, RuleWatch().apply)
    work.start()
    vifs = [name for _, name in socket.if_nameindex() if name.startswith("vif")]
    begin = time.process_time()
    _round(work)  # the first does what is due once a minute: it asks xenstore for every VM's name and who is unmetered
    _hear(work, lookup, len(vifs) + 1)
    minute = time.process_time() - begin
    changed, idle = [], []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        for _ in range(_ROUNDS):
            for vif in vifs:
                sender.sendto(bytes(1000), (vif, 0))
            changed.append(_cpu(lambda: _round(work)))
            idle.append(_cpu(lambda: _round(work)))
    tables = Tables(hand_to_nft)
    table = tables.of()
    meter = NftMeter(table, Chains(tables), Quotas(tables), KernelMeter())
    wanted = [
        _Wanted(id_, binding.key, binding.interface, binding.mark) for id_, binding in ledger.live_bindings().items()
    ]
    samples = {
        "cycle": changed,
        "idle": idle,
        "minute": [minute],
        "sync": [_cpu(work.sync) for _ in range(_ROUNDS)],
        "read": [_cpu(_NET_DEV.read_bytes) for _ in range(_ROUNDS)],
        "counters": [_cpu(table.counters) for _ in range(_ROUNDS)],
        "meter": [_cpu(lambda: meter.read(wanted)) for _ in range(_ROUNDS)],
        "tool": [_cpu(_list_counters) for _ in range(_ROUNDS)],
    }
    lookup.close()
    work.close()
    print(json.dumps(samples))


def _hear(work: Work, lookup: Lookup, count: int) -> None:
    """Take in that many answers of xenstore, one by one, as they come to a daemon that has nothing else to do."""
    while count > 0:
        for answer in lookup.answers():
            work.on_answers([answer])
            count -= 1
        time.sleep(0.01)


def _round(work: Work) -> None:
    work.cycle(())


def _list_counters() -> None:
    subprocess.run(["nft", "list", "counters"], stdout=subprocess.DEVNULL, check=True)


def _cpu(call: Callable[[], object]) -> float:
    """The processor time of a call in seconds, including all threads and commands that ended."""
    begin = _spent()
    call()
    return _spent() - begin


def _spent() -> float:
    commands = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + commands.ru_utime + commands.ru_stime


if __name__ == "__main__":
    _inside()

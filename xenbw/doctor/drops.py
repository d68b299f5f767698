"""Check that tc drops everything on the vifs of blocked guests, so that they stay sealed without nft's rules."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from xenbw.blocks.clsact import HANDLE, PRIORITY, Clsact
from xenbw.blocks.link import Link
from xenbw.doctor.finding import Finding, doubt, good
from xenbw.doctor.host import Host
from xenbw.nft import nft
from xenbw.nft.netlink import Table
from xenbw.rundir.dropped import Dropped

_TOPIC = "seal"


def look(host: Host) -> Iterator[Finding]:
    """Raises MeterError, OSError."""
    run_dir = str(host.settings.daemon.run_dir)
    names = {vif.ifindex: vif.interface for vif in host.vifs}
    table, kernel = Table(nft.TABLE), Clsact()
    try:
        sealed = nft.indexes(table.elements("sealed")) - nft.indexes(table.elements("allowed-in"))
        standing = {index for index in sealed & names.keys() if kernel.stands(index)}
        marked = Dropped(run_dir).since().keys()
        stray = {index for index in names.keys() - marked if kernel.has_ours(index)}
    finally:
        kernel.close()
        table.close()
    held = sealed & names.keys() & (standing | Link(run_dir).lowered())
    yield from judge(*({names[index] for index in some} for some in (held, (sealed & names.keys()) - held, stray)))


def judge(held: Collection[str], bare: Collection[str], stray: Collection[str]) -> list[Finding]:
    """held: sealed interfaces that tc, or a link that is down, holds as well. bare: sealed interfaces that only nft's
    rules hold. stray: interfaces with a filter of ours that has no mark, so that nothing removes it."""
    found = []
    for interface in sorted(bare):
        text = f"only nft's rules seal {interface}: without xenbwd a flush of the rules would let its guest through"
        fix = f"tc filter show dev {interface} ingress: another program's filter may be first; see also xenbw status"
        found.append(doubt(_TOPIC, text, fix))
    for interface in sorted(stray):
        text = f"xenbw's tc filter on {interface} has no mark in the run folder: if its VM is lifted the filter stays"
        which = f"prio {PRIORITY} handle {HANDLE:#x} bpf"
        fix = "; ".join(f"tc filter del dev {interface} {way} {which}" for way in ("ingress", "egress"))
        found.append(doubt(_TOPIC, text, fix))
    if held and not found:
        found.append(good(_TOPIC, f"{len(held)} sealed interfaces stay sealed if nft's rules are flushed"))
    return found

"""The census: which interface belongs to which VM, from its first byte to its last. The kernel's events, looks at sysfs
and xenstore become bindings in the ledger, which the tally follows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from xenbw.accounting import Tally
from xenbw.ledger import viflog
from xenbw.ledger.bindings import NewBinding
from xenbw.ledger.ledger import Ledger
from xenbw.model import ZERO, Binding, Counters, Life
from xenbw.tell.journal import about
from xenbw.text import INCOMING
from xenbw.vifs import interfaces
from xenbw.vifs.churn import Churn, Refrain
from xenbw.vifs.interfaces import Vif
from xenbw.vifs.naming import Naming
from xenbw.vifs.outsiders import Outsiders
from xenbw.vifs.udev import BackendEvent, Event, NetEvent, Overflow
from xenbw.xen import addresses
from xenbw.xen.xenstore import Answer, Lookup, Survey, VifFacts

log = logging.getLogger(__name__)

# libxl gives a hotplug script 40 s (libxl_internal.h, LIBXL_HOTPLUG_TIMEOUT); a vif is bound then in any case.
_SCRIPT_LIMIT = timedelta(seconds=40)
# How long a new vif's domain is asked for its name each second: toolstacks rename domains while these start.
_NEW = timedelta(seconds=10)


@dataclass
class _Waiting:
    """An interface that is bound to no VM yet.

    since: the moment from which its bytes count. baseline: raw bytes that do not count. facts: what xenstore says of
    the interface while its vif script runs.
    """

    vif: Vif
    seen_at: datetime
    since: datetime
    baseline: Counters
    facts: VifFacts | None = None


class Census:
    """The live bindings of this host. passed: whether anything was counted on an interface that has gone."""

    def __init__(
        self,
        ledger: Ledger,
        lookup: Lookup,
        tally: Tally,
        boot_id: str,
        passed: Callable[[Life], bool],
        sysfs: Path = interfaces.SYSFS,
    ) -> None:
        self._ledger, self._lookup, self._tally = ledger, lookup, tally
        self._boot_id, self._passed, self._sysfs = boot_id, passed, sysfs
        self._outsiders = Outsiders(ledger, boot_id)
        self.churn, self._refrain = Churn(ledger), Refrain()
        self.live: dict[int, Binding] = {}
        self._names: dict[int, str] = {}
        self._by_ifindex: dict[int, Binding] = {}
        self._by_vif: dict[tuple[int, int], list[Binding]] = {}  # of the last load, so some may have ended
        self._waiting: dict[int, _Waiting] = {}
        self._naming = Naming()
        self._floor: datetime | None = None

    @property
    def waiting(self) -> Collection[int]:
        """The ifindexes of interfaces that are bound to no VM yet."""
        return self._waiting.keys()

    def unsettled(self, at: datetime) -> list[Binding]:
        """The bindings whose domain may get another name at any time: new ones, and those of domains that are perhaps
        being received by a migration, which get their name when they may run."""
        return [
            binding
            for ifindex, binding in self._by_ifindex.items()
            # Of a binding that began by a clock that was ahead nobody knows how new it is.
            if timedelta() <= at - binding.started_at < _NEW
            or self._naming.may_change(ifindex, self._names.get(binding.vm_id, ""))
        ]

    @property
    def arriving(self) -> list[tuple[Vif, VifFacts]]:
        """The interfaces whose vif scripts still run. A vif that is attached to a running guest is connected by then:
        netback does not wait for the script (linux drivers/net/xen-netback/xenbus.c, connect)."""
        return [(waiting.vif, waiting.facts) for waiting in self._waiting.values() if waiting.facts is not None]

    @property
    def bound(self) -> Collection[Binding]:
        """The bindings of the interfaces that exist."""
        return self._by_ifindex.values()

    def load(self, vm_ids: Container[int], floor: datetime | None = None) -> None:
        """Follow the ledger's live bindings of these VMs. Bindings of VMs that are met later follow with the next load.

        floor: the moment of the last daemon's last reading, given at the start.
        """
        self._floor = floor or self._floor
        tracked = self._tally.tracked
        self.live = {id_: b for id_, b in self._ledger.live_bindings().items() if b.vm_id in vm_ids}
        self._names = {vm.id: vm.name for vm in self._ledger.vms().values()}
        self._by_ifindex = {b.ifindex: b for b in self._present()}
        self._by_vif = {}
        for binding in self._by_ifindex.values():
            self._by_vif.setdefault((binding.domid, binding.devid), []).append(binding)
        followed = {binding.id for binding in self._by_ifindex.values()}
        for gone in tracked.keys() - followed:
            self._tally.forget(gone)
        for binding in self._by_ifindex.values():
            known = tracked.get(binding.id)
            if known is None:
                self._tally.follow(binding, self._floor or binding.started_at)
            else:
                known.interface = binding.interface
            self._waiting.pop(binding.ifindex, None)

    def _present(self) -> list[Binding]:
        """The live bindings of this boot. Interface names are unique: of two bindings with one name the older's
        interface is gone, and the event of its removal is still to come."""
        newest: dict[str, Binding] = {}
        for binding in sorted(self.live.values(), key=lambda binding: binding.ifindex):
            if binding.boot_id == self._boot_id:
                newest[binding.interface] = binding
        return list(newest.values())

    def owner_of(self, interface: str) -> tuple[str, int] | None:
        """(VM's name, ifindex) of an interface that is bound."""
        for binding in self._by_ifindex.values():
            if binding.interface == interface and binding.vm_id in self._names:
                return self._names[binding.vm_id], binding.ifindex
        return None

    # what the kernel tells

    def see(self, events: Iterable[Event], at: datetime, baseline: Callable[[], Mapping[str, Counters]]) -> bool:
        """Take over events. Returns whether bindings ended or were renamed, so that the caller commits and loads."""
        changed = False
        for event in events:
            match event:
                case Overflow():
                    log.warning("udev events were lost; looking at every interface")
                    changed = self.rescan(at, at, baseline) or changed
                case NetEvent("remove", _, ifindex):
                    changed = self._go(ifindex, at) or changed
                case NetEvent(_, interface, ifindex):
                    changed = self._appear(ifindex, interface, at, at, ZERO) or changed
                case BackendEvent("add" | "online", domid, devid):
                    self._lookup.ask(domid, devid)
                case BackendEvent():
                    pass  # the interface's own removal follows
        return changed

    def _go(self, ifindex: int, at: datetime) -> bool:
        """An interface is gone. Returns whether a binding changed. An interface that no hook recorded, and that went
        before it was found connected, is bound now: its counters tell what passed."""
        waiting = self._waiting.get(ifindex)
        if waiting is not None and waiting.facts is not None and self._unrecorded(waiting.vif):
            facts, called = waiting.facts, waiting.facts.called or ""
            # Bytes passed, so the domain was no longer being received: --incoming is part of the VM's name.
            facts = replace(facts, name=called) if called.endswith(INCOMING) else facts
            self._write(waiting.vif, facts, waiting.seen_at, waiting.since, waiting.baseline)
        self._waiting.pop(ifindex, None)
        self._naming.forget(ifindex)
        return self._end(ifindex, at, "vanished")

    def _unrecorded(self, vif: Vif) -> bool:
        """Whether bytes passed an interface that no hook recorded. Nothing passes one whose vif script failed."""
        told = viflog.live_on(self._ledger, self._boot_id, vif.ifindex) or viflog.ended(
            self._ledger, self._boot_id, [vif.ifindex]
        )
        return not told and self._passed(vif.life)

    def _end(self, ifindex: int, at: datetime, reason: str) -> bool:
        ended = [b for b in self.live.values() if (b.boot_id, b.ifindex) == (self._boot_id, ifindex)]
        # A hook may have bound it a moment ago, and its removal is not told again.
        ended = ended or viflog.live_on(self._ledger, self._boot_id, ifindex)
        for binding in ended:
            viflog.end(self._ledger, binding.id, at, reason)
            self.live.pop(binding.id, None)
            if binding.id in self._tally.tracked:
                # A new interface may have its name already. Our own counters are found by the ifindex.
                self._tally.tracked[binding.id].interface = ""
        self._by_ifindex.pop(ifindex, None)
        return bool(ended)

    def _appear(self, ifindex: int, interface: str, at: datetime, since: datetime, baseline: Counters) -> bool:
        """An interface exists, or has a new name; a known one is found by its ifindex. Returns whether a binding
        changed."""
        binding, waiting, name = self._by_ifindex.get(ifindex), self._waiting.get(ifindex), interfaces.shown(interface)
        if binding is not None:
            bridge = interfaces.bridge_of(interface, self._sysfs) or binding.bridge
            if (binding.interface, binding.bridge) == (name, bridge):
                return False
            viflog.rename(self._ledger, binding.id, name, bridge)
            return True
        if waiting is not None:
            waiting.vif = replace(waiting.vif, interface=name)
            return False
        vif = interfaces.identify(interface, self._sysfs)
        if vif is not None and vif.ifindex == ifindex:
            self._waiting[ifindex] = _Waiting(vif, at, since, baseline)
            self._lookup.ask(vif.domid, vif.devid)
        return False

    def rescan(self, at: datetime, since: datetime, baseline: Callable[[], Mapping[str, Counters]]) -> bool:
        """Look at every interface, and record starts and ends that no event told. Returns whether bindings changed.

        since: the last moment at which all interfaces were known. baseline: raw counters of interfaces whose past is
        not charged.
        """
        present = interfaces.present(self._sysfs)
        raw = baseline()
        changed = False
        for binding in list(self.live.values()):
            if binding.boot_id != self._boot_id:
                viflog.end(self._ledger, binding.id, since, "host rebooted")
                changed = True
            elif binding.ifindex not in present:
                changed = self._go(binding.ifindex, at) or changed
        for ifindex in self._waiting.keys() - present.keys():
            changed = self._go(ifindex, at) or changed
        for ifindex, interface in present.items():
            changed = self._appear(ifindex, interface, at, since, raw.get(interfaces.shown(interface), ZERO)) or changed
        return changed

    # what xenstore tells

    def ask(self, at: datetime, *, everyone: bool = False) -> None:
        """Ask xenstore about the interfaces whose VM is not certain. everyone: about all interfaces, since domains can
        be renamed, and about domains without interfaces here."""
        wanted = {(waiting.vif.domid, waiting.vif.devid) for waiting in self._waiting.values()}
        wanted |= {(binding.domid, binding.devid) for binding in self.unsettled(at)}
        if everyone:
            wanted |= {(binding.domid, binding.devid) for binding in self._by_ifindex.values()}
        for domid, devid in sorted(wanted):
            self._lookup.ask(domid, devid)
        if everyone:
            self.survey()

    def survey(self) -> None:
        """Ask xenstore for the domains whose traffic this dom0 does not see."""
        self._lookup.survey()

    def hear(self, answers: Iterable[Answer | Survey], at: datetime) -> bool:
        """Bind the interfaces that xenstore's answers name. Returns whether bindings changed or VMs are new."""
        changed = False
        # Answers come one by one, so a walk over all that is bound would make the work of a minute grow by the square.
        for answer in answers:
            if isinstance(answer, Survey):
                changed = self._outsiders.hear(answer, at) or changed
                continue
            if answer.error is not None:
                self._refrain.tell(f"xenstore: {answer.error}", at)
            if answer.facts is None or not answer.facts.name:
                continue
            key = answer.domid, answer.devid
            for entry in [one for one in self._waiting.values() if (one.vif.domid, one.vif.devid) == key]:
                changed = self._bind(entry, answer.facts, at) or changed
            for binding in [one for one in self._by_vif.get(key, ()) if one.ifindex in self._by_ifindex]:
                changed = self._update(binding, answer.facts, at) or changed
        return changed

    def _bind(self, waiting: _Waiting, facts: VifFacts, at: datetime) -> bool:
        # Until its script is done the vif may be renamed, and the hook will record it.
        if waiting.vif.ifindex not in self._waiting:
            return False
        name = self._naming.whose(waiting.vif.ifindex, facts, None, at)
        if name is None or (facts.hotplug_status != "connected" and at - waiting.seen_at < _SCRIPT_LIMIT):
            waiting.facts = facts
            return False
        vif = replace(waiting.vif, bridge=interfaces.bridge_of(waiting.vif.interface, self._sysfs))
        self._write(vif, replace(facts, name=name), waiting.seen_at, waiting.since, waiting.baseline)
        del self._waiting[vif.ifindex]
        if not self.churn.quiet(name, at):
            by = "its name: it has no xenbus node" if vif.by_name else "its xenbus node"
            told = "%s: bound to %s by %s; no hook recorded it"
            log.info(told, vif.interface, name, by, extra=about("bound", name))
        return True

    def _update(self, binding: Binding, facts: VifFacts, at: datetime) -> bool:
        before = self._names.get(binding.vm_id)
        name = self._naming.whose(binding.ifindex, facts, before, at)
        ips = addresses.parse(facts.ips)[0]
        if name is None or (name == before and (not ips or set(ips) == {str(ip) for ip in binding.ips})):
            return False
        vif = Vif(binding.interface, binding.ifindex, binding.kind, binding.domid, binding.devid, binding.bridge, False)
        self._write(vif, replace(facts, name=name), at, at, ZERO)
        if name != before and not self.churn.quiet(name, at):
            told = "%s: its domain is now called %s, it was %s"
            log.info(told, binding.interface, name, before, extra=about("renamed", name))
        return True

    def _write(self, vif: Vif, facts: VifFacts, at: datetime, since: datetime, baseline: Counters) -> None:
        new = NewBinding(
            name=str(facts.name),
            boot_id=self._boot_id,
            domid=vif.domid,
            devid=vif.devid,
            kind=vif.kind.value,
            ifindex=vif.ifindex,
            interface=vif.interface,
            mac=facts.mac,
            ips=" ".join(addresses.parse(facts.ips)[0]),
            bridge=vif.bridge or facts.bridge,
            baseline=baseline,
            since=since.isoformat(timespec="microseconds"),
        )
        viflog.bind(self._ledger, at, new)

"""Interfaces that came and went unrecorded: their hook was killed and no daemon ran. What their counters still say is
charged to their VM; where the VM is not known, the loss is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime

from xenbw.errors import MeterError
from xenbw.ledger import viflog
from xenbw.ledger.bindings import NewBinding
from xenbw.ledger.ledger import Ledger
from xenbw.model import Amounts, Binding, Counters, Kind, Life
from xenbw.tell.journal import about
from xenbw.units import format_size

log = logging.getLogger(__name__)


class Orphans:
    """Charges such lives, or tells of them.

    unclaimed: interfaces that are gone, have counters of ours, and no binding. counts: what the counters of a life say,
    or None without counters. Both may raise MeterError.
    """

    def __init__(
        self,
        ledger: Ledger,
        boot_id: str,
        unclaimed: Callable[[], Collection[Life]],
        counts: Callable[[Life], Amounts | None],
    ) -> None:
        self._ledger, self._boot_id, self._unclaimed, self._counts = ledger, boot_id, unclaimed, counts

    def take(self, name: str, domid: int, devid: int, kind: Kind, ips: str, at: datetime) -> None:
        """A hook was called at the end of a life in this boot, and no program had recorded the beginning."""
        if any(one.devid == devid for one in self._bindings(domid)):
            return  # the note of its beginning was recorded before this one
        try:
            lives = [life for life in self._unclaimed() if (life.domid, life.devid) == (domid, devid)]
            for life in lives:
                # Nothing passes an interface whose vif script failed.
                if any(self._counts(life) or ()):
                    self._bind(life, name, kind, at, ips)
        except MeterError:
            return  # `claim` or `lost` will tell of it later
        if not lives:
            self._tell_uncounted(name, domid, devid, at)

    def broken_off(self, name: str, life: Life, at: datetime) -> None:
        """A hook was killed while it recorded the beginning of a life that is over now."""
        with suppress(MeterError):
            if self._counts(life) is None:
                self._tell_uncounted(name, life.domid, life.devid, at)

    def claim(self, at: datetime) -> bool:
        """Charge each life to the VM that another interface of the same domain is bound to. Returns whether there were
        any. Raises MeterError."""
        lives, found = self._unclaimed(), False
        names = {vm.id: vm.name for vm in self._ledger.vms().values()} if lives else {}
        for life in lives:
            known = [one for one in self._bindings(life.domid) if one.vm_id in names]
            if known:
                self._bind(life, names[known[-1].vm_id], Kind.VIF, at, "")
                found = True
        return found

    def lost(self, swept: Mapping[Life, Counters], at: datetime) -> None:
        """Tell of bytes that cannot be charged to any VM."""
        for (domid, devid, _), counted in swept.items():
            size = f"{format_size(counted.in_bytes)} in and {format_size(counted.out_bytes)} out"
            self._tell(f"vif{domid}.{devid} came and went, and no hook recorded its VM: {size} charged to no VM", at)

    def _bindings(self, domid: int) -> list[Binding]:
        return viflog.of_domain(self._ledger, self._boot_id, domid)

    def _bind(self, life: Life, name: str, kind: Kind, at: datetime, ips: str) -> None:
        domid, devid, ifindex = life
        interface = f"vif{domid}.{devid}"
        new = NewBinding(
            name=name,
            boot_id=self._boot_id,
            domid=domid,
            devid=devid,
            kind=kind.value,
            ifindex=ifindex,
            interface=interface,
            ips=ips,
        )
        binding_id = viflog.bind(self._ledger, at, new)
        viflog.end(self._ledger, binding_id, at, "vanished")
        told = "%s: charged to %s after its end; no hook recorded it"
        log.info(told, interface, name, extra=about("bound", name))

    def _tell_uncounted(self, name: str, domid: int, devid: int, at: datetime) -> None:
        self._tell(f"vif{domid}.{devid} of {name} came and went uncounted: its hook was killed and no xenbwd ran", at)

    def _tell(self, text: str, at: datetime) -> None:
        log.warning("%s", text, extra=about("unattributed"))
        self._ledger.record(at, "unattributed", text)

"""Lives of interfaces that nobody announced: their hook was killed, no daemon ran, and they are gone. What their
counters still say is charged to their VM where that can be told; where it cannot, the loss is told."""

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
from xenbw.units import format_size

log = logging.getLogger(__name__)


class Orphans:
    """unclaimed: interfaces that are gone, have counters of ours, and no binding. counts: what those of one say, or
    None where it has none. Both may raise MeterError."""

    def __init__(
        self,
        ledger: Ledger,
        boot_id: str,
        unclaimed: Callable[[], Collection[Life]],
        counts: Callable[[Life], Amounts | None],
    ) -> None:
        self._ledger, self._boot_id, self._unclaimed, self._counts = ledger, boot_id, unclaimed, counts

    def take(self, call: Mapping[str, str], at: datetime) -> None:
        """A hook was called at the end of a life, and nobody had recorded its beginning."""
        domid, devid, name = int(call["domid"]), int(call["devid"]), call["name"]
        if call["boot_id"] != self._boot_id or any(one.devid == devid for one in self._bindings(domid)):
            return  # its note came before this one
        try:
            lives = [life for life in self._unclaimed() if life[:2] == (domid, devid)]
            for life in lives:
                # Nothing passes one whose script failed.
                if any(self._counts(life) or ()):
                    self._bind(life, name, call["kind"], at, call["ips"])
        except MeterError:
            return  # whoever claims them later tells of it
        if not lives:
            self._tell_uncounted(call, at)

    def broken_off(self, call: Mapping[str, str], at: datetime) -> None:
        """A hook was killed at its work at the beginning of a life that is over."""
        with suppress(MeterError):
            if self._counts((int(call["domid"]), int(call["devid"]), int(call["ifindex"]))) is None:
                self._tell_uncounted(call, at)

    def claim(self, at: datetime) -> bool:
        """Charge lives to the VM of whose domain another interface is known. Whether there were any. Raises
        MeterError."""
        lives, found = self._unclaimed(), False
        names = {vm.id: vm.name for vm in self._ledger.vms().values()} if lives else {}
        for life in lives:
            known = [one for one in self._bindings(life[0]) if one.vm_id in names]
            if known:
                self._bind(life, names[known[-1].vm_id], Kind.VIF.value, at, "")
                found = True
        return found

    def lost(self, swept: Mapping[Life, Counters], at: datetime) -> None:
        """Tell of bytes that nobody can be charged with."""
        for (domid, devid, _), counted in swept.items():
            size = f"{format_size(counted.in_bytes)} in and {format_size(counted.out_bytes)} out"
            self._tell(f"vif{domid}.{devid} came and went, no hook told whose it was: {size} charged to nobody", at)

    def _bindings(self, domid: int) -> list[Binding]:
        return viflog.of_domain(self._ledger, self._boot_id, domid)

    def _bind(self, life: Life, name: str, kind: str, at: datetime, ips: str) -> None:
        domid, devid, ifindex = life
        interface = f"vif{domid}.{devid}"
        new = NewBinding(
            name=name,
            boot_id=self._boot_id,
            domid=domid,
            devid=devid,
            kind=kind,
            ifindex=ifindex,
            interface=interface,
            ips=ips,
        )
        binding_id = viflog.bind(self._ledger, at, new)
        viflog.end(self._ledger, binding_id, at, "vanished")
        log.info("%s: charged to %s after its end; no hook announced it", interface, name)

    def _tell_uncounted(self, call: Mapping[str, str], at: datetime) -> None:
        interface, name = f"vif{call['domid']}.{call['devid']}", call["name"]
        self._tell(f"{interface} of {name} came and went uncounted: its hook was killed and no xenbwd ran", at)

    def _tell(self, text: str, at: datetime) -> None:
        log.warning("%s", text)
        self._ledger.record(at, "unattributed", text)

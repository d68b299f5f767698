"""Which VMs use other MACs than Xen gave them: remembered by VM, as what others learnt of a guest outlives its vif."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from xenbw.accounting import Tracked
from xenbw.ledger import aliases
from xenbw.ledger.ledger import Ledger
from xenbw.nft.chains import Chains

# A guest that sends from another MAC all the time renews its entry with each frame; the ledger learns of it so often.
_STEP = timedelta(minutes=10)


class Aliases:
    """Takes over from the kernel which vifs' guests used another MAC."""

    def __init__(self, ledger: Ledger, chains: Chains) -> None:
        self._ledger, self._chains = ledger, chains
        self._until: dict[int, datetime] = {}
        self._kept, self._news = True, False

    def note(self, bindings: Iterable[Tracked], at: datetime) -> None:
        """Look which of these bindings' guests used another MAC. Call it before the vifs' entries are deleted. Raises
        MeterError."""
        left = self._chains.aliased()
        for one in bindings if left else ():
            if one.key.ifindex in left:
                until, before = at + timedelta(seconds=left[one.key.ifindex]), self._until.get(one.vm_id)
                if before is None or until > before + _STEP:
                    self._until[one.vm_id], self._kept = until, False
                    self._news = self._news or before is None or before <= at

    def take_news(self) -> bool:
        """Whether there are VMs among them, since the last call, that were not."""
        news, self._news = self._news, False
        return news

    def keep(self, at: datetime) -> None:
        """Write to the ledger what is not there yet. Raises LedgerError."""
        if not self._kept:
            known = aliases.known(self._ledger, at)
            found = {vm_id: max(until, known.get(vm_id, until)) for vm_id, until in self._until.items() if until > at}
            aliases.keep(self._ledger, {**known, **found})
            self._until, self._kept = found, True
